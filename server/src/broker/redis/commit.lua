-- Makes one change of a task that was worked out from what was read before, unless something has changed since.
-- KEYS: meta, recent, stream, bytes, leases, clock, dirty
-- ARGV: the plan as JSON (`Plan` in task.rs), then the packed rows of each of plan.rows
-- Answers: {'ok', first offset of each of plan.rows..., created ms, created text} | {'conflict'} | {'lost'}
local meta = KEYS[1]
local plan = cjson.decode(ARGV[1])
local now_id = run_id(plan.run_id)
local m = redis.call('HMGET', meta, 'run_id', 'rev', 'end', 'c', 'ct')
local seen_id = m[1] or ''
if not plan.rebuild and seen_id ~= now_id then return {'lost'} end
if plan.rebuild and seen_id == now_id then return {'conflict'} end
if (m[2] or '') ~= plan.rev then return {'conflict'} end
if plan.at_end and (m[3] or '') ~= plan.at_end then return {'conflict'} end
for i = 1, #plan.guard, 2 do
    if (redis.call('HGET', meta, plan.guard[i]) or '') ~= plan.guard[i + 1] then return {'conflict'} end
end
local clock = tonumber(redis.call('HGET', KEYS[6], 'now') or '0')
for _, member in ipairs(plan.expired) do
    local due = redis.call('ZSCORE', KEYS[5], member)
    if not due or tonumber(due) > clock then return {'conflict'} end
end

if seen_id == '' then redis.call('DEL', KEYS[2]) end
for i = 1, #plan.set, 2 do redis.call('HSET', meta, plan.set[i], plan.set[i + 1]) end
for _, field in ipairs(plan.del) do redis.call('HDEL', meta, field) end
redis.call('HSET', meta, 'run_id', now_id, 'rev', tonumber(m[2] or '0') + 1)
redis.call('PERSIST', meta)
redis.call('PERSIST', KEYS[2])

local now = redis.call('HMGET', meta, 'end', 'c', 'ct', 'hold', 'epoch')
local last, created, created_text = tonumber(now[1] or '0'), plan.now, plan.now_text
if tonumber(now[2] or '0') > tonumber(created) then
    created, created_text = now[2], now[3]
end
local keys = {recent = KEYS[2], stream = KEYS[3], bytes = KEYS[4]}
local reply, messages = {'ok'}, {}
for i, row in ipairs(plan.rows) do
    row.tenant, row.task, row.packed, row.epoch = plan.tenant, plan.task, ARGV[i + 1], now[5]
    local first = last + 1
    last = enqueue(keys, row, first, created)
    reply[#reply + 1] = tostring(first)
    for n, line in ipairs(row.lines) do
        messages[#messages + 1] = plan.head .. (first + n - 1) .. line[1] .. created_text .. line[2]
    end
end
if #plan.rows > 0 then
    redis.call('HSET', meta, 'end', last, 'c', created, 'ct', created_text)
end
-- Lines that came between reading and now are before the change as well.
if plan.hold and tonumber(now[4] or '0') < last then redis.call('HSET', meta, 'hold', last) end
for _, member in ipairs(plan.lease) do redis.call('ZADD', KEYS[5], clock + tonumber(plan.lease_ms), member) end
for _, member in ipairs(plan.release) do redis.call('ZREM', KEYS[5], member) end
redis.call('SADD', KEYS[7], plan.task)
if plan.channel ~= '' then
    for _, message in ipairs(messages) do redis.call('PUBLISH', plan.channel, message) end
    redis.call('PUBLISH', plan.hints, 'C ' .. plan.task)
end
reply[#reply + 1] = created
reply[#reply + 1] = created_text
return reply
