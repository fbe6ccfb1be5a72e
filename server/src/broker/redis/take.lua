-- Reads entries of one shard, only for the worker that holds it: after a FLUSHALL one may believe that it does while another
-- reads already, and what one read and then forgot would be passed over by the other.
-- KEYS: worker, stream
-- ARGV: worker id, token, group, entries at most, '' for new entries or where to go on claiming pending ones
-- Answers: {'ok', where to go on, entries} | {'fenced'}
local hold = redis.call('HMGET', KEYS[1], 'owner', 'token')
if hold[1] ~= ARGV[1] or hold[2] ~= ARGV[2] then return {'fenced'} end
if ARGV[5] == '' then
    local read = redis.call('XREADGROUP', 'GROUP', ARGV[3], ARGV[1], 'COUNT', ARGV[4], 'STREAMS', KEYS[2], '>')
    return {'ok', '', read and read[1][2] or {}}
end
-- The hold says that nobody else works on them, so that they need not have been idle for long.
local claimed = redis.call('XAUTOCLAIM', KEYS[2], ARGV[3], ARGV[1], 0, ARGV[5], 'COUNT', ARGV[4])
return {'ok', claimed[1], claimed[2]}
