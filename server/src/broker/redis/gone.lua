-- A worker has no connection any more: what it held is free.
-- KEYS: workers, connections, then the worker of each shard
-- ARGV: worker id, the connection that it had
-- Answers: '1', or '0' if it has another connection now
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return '0' end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[1], ARGV[1])
for shard = 3, #KEYS do
    if redis.call('HGET', KEYS[shard], 'owner') == ARGV[1] then redis.call('HDEL', KEYS[shard], 'owner', 'until') end
end
return '1'
