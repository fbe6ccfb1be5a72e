-- Moves the lease clock, and says whose time is over. The clock moves by at most two seconds at once: it stands still while no
-- server looks, and while Redis does not run.
-- KEYS: clock, leases
-- ARGV: run_id
-- Answers: {'1' if the shard's tasks are not recovered into this memory, run_id, members...}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local id = run_id(ARGV[1])
local c = redis.call('HMGET', KEYS[1], 'now', 'last', 'run_id')
local clock = tonumber(c[1] or '0') + math.max(0, math.min(now - tonumber(c[2] or now), 2000))
redis.call('HSET', KEYS[1], 'now', clock, 'last', now)
local reply = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', clock, 'LIMIT', 0, 200)
table.insert(reply, 1, id)
table.insert(reply, 1, c[3] == id and '0' or '1')
return reply
