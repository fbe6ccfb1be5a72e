-- The store has the task's record in this version.
-- KEYS: meta, recent, dirty
-- ARGV: task, version, epoch of that record, milliseconds that an ended task is kept
local m = redis.call('HMGET', KEYS[1], 'version', 'persisted', 'epoch', 'ended', 'stored', 'end')
if not m[1] then
    redis.call('SREM', KEYS[3], ARGV[1])
    return 0
end
local persisted = math.max(tonumber(m[2] or '0'), tonumber(ARGV[2]))
redis.call('HSET', KEYS[1], 'persisted', persisted)
if m[3] == ARGV[3] then redis.call('HSET', KEYS[1], 'ready', m[3]) end
if persisted >= tonumber(m[1]) then
    redis.call('SREM', KEYS[3], ARGV[1])
    if m[4] == '1' and m[5] == m[6] then
        redis.call('PEXPIRE', KEYS[1], ARGV[4])
        redis.call('PEXPIRE', KEYS[2], ARGV[4])
    end
end
return 1
