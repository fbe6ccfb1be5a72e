-- Workers that are gone leave a name in the group. Only the worker that holds the shard may remove it: nobody else is given an
-- entry meanwhile, and what is pending with a name would go with it.
-- KEYS: worker, stream
-- ARGV: worker id, token, group
local hold = redis.call('HMGET', KEYS[1], 'owner', 'token')
if hold[1] ~= ARGV[1] or hold[2] ~= ARGV[2] then return 0 end
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[2], ARGV[3])) do
    local fields = {}
    for i = 1, #consumer, 2 do fields[consumer[i]] = consumer[i + 1] end
    if fields.pending == 0 and fields.name ~= ARGV[1] then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[2], ARGV[3], fields.name)
    end
end
return 1
