-- Takes, keeps or gives up the reading of one shard.
-- KEYS: worker
-- ARGV: worker id, milliseconds that the hold lasts, '1' to have it, '0' to give it up
-- Answers: the fencing token, or '' if someone else has it or nobody shall
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local h = redis.call('HMGET', KEYS[1], 'owner', 'until', 'token')
if h[1] and h[1] ~= ARGV[1] and tonumber(h[2]) > now then return '' end
if ARGV[3] == '0' then
    if h[1] == ARGV[1] then redis.call('HDEL', KEYS[1], 'owner', 'until') end
    return ''
end
local token = h[3]
-- By the clock, so that no token comes again after a FLUSHALL.
if h[1] ~= ARGV[1] then token = string.format('%.0f', math.max(now, tonumber(h[3] or '0') + 1)) end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'token', token, 'until', string.format('%.0f', now + tonumber(ARGV[2])))
return token
