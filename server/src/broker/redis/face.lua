-- What tasks look like now, for whoever asks Redis.
-- KEYS: states of tasks of one shard
-- ARGV: seconds that they live; then for each task how many fields and values follow, and these
local at = 2
for _, key in ipairs(KEYS) do
    local count = tonumber(ARGV[at])
    redis.call('HSET', key, unpack(ARGV, at + 1, at + count))
    redis.call('EXPIRE', key, ARGV[1])
    at = at + count + 1
end
