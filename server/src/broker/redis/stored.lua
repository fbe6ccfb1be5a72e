-- A delivery of one shard is committed in the store: the watermarks move, the entries go.
-- KEYS: worker, stream, bytes, then meta and recent of each task
-- ARGV: worker id, token, group, hint channel or '', number of tasks; for each task: name, epoch, last offset, number of
--       producers, and (producer, seq) of each; then for each entry: id, tenant, weight
-- Answers: {'ok', hint text, names of tasks whose record may be persisted now...} | {'fenced'}
local hold = redis.call('HMGET', KEYS[1], 'owner', 'token')
if hold[1] ~= ARGV[1] or hold[2] ~= ARGV[2] then return {'fenced'} end
local function newer(a, b) return #a > #b or (#a == #b and a > b) end

local at, ready, hints = 6, {}, {}
for task = 1, tonumber(ARGV[5]) do
    local meta, recent = KEYS[2 + 2 * task], KEYS[3 + 2 * task]
    local name, epoch, last, count = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
    at = at + 4
    local m = redis.call('HMGET', meta, 'epoch', 'base', 'stored', 'hold', 'version', 'persisted')
    -- Rows of an older epoch above the base are void: nobody may be told that they are stored.
    local counts = m[1] and (m[1] == epoch or last <= tonumber(m[2]))
    if counts then
        local stored = tonumber(m[3])
        if last > stored then
            stored = last
            redis.call('HSET', meta, 'stored', last)
            redis.call('XTRIM', recent, 'MINID', '=', string.format('%.0f-0', last + 1))
        end
        local hint = {'S', name, m[1], string.format('%.0f', stored)}
        for p = 1, count do
            local producer, seq = ARGV[at + 2 * p - 2], ARGV[at + 2 * p - 1]
            local known = redis.call('HGET', meta, 's:' .. producer) or '0'
            if newer(seq, known) then
                redis.call('HSET', meta, 's:' .. producer, seq)
                hint[#hint + 1] = producer .. '=' .. seq
            end
        end
        hints[#hints + 1] = table.concat(hint, ' ')
        if m[5] ~= m[6] and stored >= tonumber(m[4]) then ready[#ready + 1] = name end
    end
    at = at + 2 * count
end
while at <= #ARGV do
    redis.call('XACK', KEYS[2], ARGV[3], ARGV[at])
    if redis.call('XDEL', KEYS[2], ARGV[at]) == 1 then
        local left = redis.call('HINCRBY', KEYS[3], ARGV[at + 1], -tonumber(ARGV[at + 2]))
        if left <= 0 then redis.call('HDEL', KEYS[3], ARGV[at + 1]) end
    end
    at = at + 3
end
local text = table.concat(hints, '\n')
if ARGV[4] ~= '' and text ~= '' then redis.call('PUBLISH', ARGV[4], text) end
local reply = {'ok', text}
for _, name in ipairs(ready) do reply[#reply + 1] = name end
return reply
