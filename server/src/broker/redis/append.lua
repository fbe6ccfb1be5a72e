-- Appends one batch of one producer: all or nothing, and published last.
-- KEYS: meta, recent, stream, bytes
-- ARGV: run_id, epoch, generation, producer, seq before the batch, last seq of it, rows, now in ms, now as text, tenant,
--       task, packed rows, channel or '', JSON up to the offset; then for each row JSON up to created_at, and after it
-- Answers: {'ok', first, created ms, created text} | {'seq', last seq} | {'fenced'} | {'closed'} | {'lost'}
local meta = KEYS[1]
local producer = ARGV[4]
local m = redis.call('HMGET', meta, 'run_id', 'epoch', 'end', 'c', 'ct', 'g:' .. producer, 'q:' .. producer,
    'o:' .. producer, 'reopened', 'persisted')
if not m[1] or m[1] ~= run_id(ARGV[1]) or m[2] ~= ARGV[2] then return {'lost'} end
if m[6] ~= ARGV[3] then return {'fenced'} end
local queued = m[7] or '0'
if queued ~= ARGV[5] then return {'seq', queued} end
if not m[8] or tonumber(m[9] or '0') > tonumber(m[10] or '0') then return {'closed'} end

local count = tonumber(ARGV[7])
local first = tonumber(m[3]) + 1
local created, created_text = ARGV[8], ARGV[9]
if tonumber(m[4]) > tonumber(created) then
    created, created_text = m[4], m[5]
end
local keys = {recent = KEYS[2], stream = KEYS[3], bytes = KEYS[4]}
local last = enqueue(keys, {epoch = ARGV[2], producer = producer, last_seq = ARGV[6], count = count, tenant = ARGV[10],
    task = ARGV[11], packed = ARGV[12]}, first, created)
redis.call('HSET', meta, 'end', last, 'c', created, 'ct', created_text, 'q:' .. producer, ARGV[6])
local channel, head = ARGV[13], ARGV[14]
if channel ~= '' then
    local at = 15
    for offset = first, last do
        redis.call('PUBLISH', channel, head .. offset .. ARGV[at] .. created_text .. ARGV[at + 1])
        at = at + 2
    end
end
return {'ok', tostring(first), created, created_text}
