-- What the scripts that append have in common. Offsets and times are Lua numbers, exact up to 2^53, and print without an
-- exponent up to 10^14; sequence numbers may be larger and are only ever compared as text.

-- Whose memory this is. A connection to one server knows; one to a Cluster does not, and the script asks.
local function run_id(given)
    if given ~= '' then return given end
    return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
end

-- Puts one packed batch on the queue and into the recent window. Returns its last offset.
local function enqueue(keys, row, first, created)
    local last = first + row.count - 1
    local weight = #row.packed + 64 * row.count
    local head = table.concat({row.epoch, first, row.count, created, row.producer, row.last_seq, weight, row.task}, ' ')
    redis.call('XADD', keys.stream, '*', 'h', head, 'd', row.packed)
    redis.call('XADD', keys.recent, last .. '-0', 'h', head, 'd', row.packed)
    redis.call('HINCRBY', keys.bytes, row.tenant, weight)
    return last
end
