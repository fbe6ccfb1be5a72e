-- A whole lease from now on, for those that have one.
-- KEYS: clock, leases
-- ARGV: lease in ms, members
local due = tonumber(redis.call('HGET', KEYS[1], 'now') or '0') + tonumber(ARGV[1])
for i = 2, #ARGV do redis.call('ZADD', KEYS[2], 'XX', 'GT', due, ARGV[i]) end
return 1
