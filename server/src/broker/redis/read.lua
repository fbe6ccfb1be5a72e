-- One consistent look at a task.
-- KEYS: meta, recent
-- ARGV: run_id, first offset wanted (0: no lines), entries at most
-- Answers: {run_id, meta as HGETALL or the fields of a position, entries of the window}
local id = run_id(ARGV[1])
local from = tonumber(ARGV[2])
if from == 0 then return {id, redis.call('HGETALL', KEYS[1]), {}} end
local m = redis.call('HMGET', KEYS[1], 'run_id', 'epoch', 'end', 'stored', 'ready', 'record')
if m[4] and tonumber(m[4]) >= from then from = tonumber(m[4]) + 1 end
return {id, m, redis.call('XRANGE', KEYS[2], string.format('%.0f-0', from), '+', 'COUNT', ARGV[3])}
