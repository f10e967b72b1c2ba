-- What every script begins with; `scripts.py` puts it there.
-- ARGV[1] is the time in microseconds since 1970, or empty: then it is the server's own.
local now
if ARGV[1] == '' then
    local time = redis.call('TIME')
    now = time[1] * 1000000 + time[2]
else
    now = tonumber(ARGV[1])
end

-- Numbers beyond 14 digits: Lua's own conversion would round them. (That of redis.call does not.)
local function whole(number)
    return string.format('%.0f', number)
end

local function milliseconds()
    return whole(math.floor(now / 1000))
end

local stamp
local function seconds()
    stamp = stamp or string.format('%.6f', now / 1000000)
    return stamp
end

-- A write that changes nothing and that a full server does not refuse. After it, the script's other writes are not
-- refused either: for scripts that must go on when memory is full, and that let nothing grow.
local function write_though_full(key)
    redis.call('PERSIST', key)
end

local function write_status(stream, event, device, reason, conn, epoch, incarnation)
    local node = string.match(incarnation, '^(.*)~[^~]*$')
    redis.call('XADD', stream, '*', 'device', device, 'event', event, 'reason', reason, 'conn', conn, 'epoch', epoch,
        'node', node, 'ts', seconds())
end

local function write_receipt(stream, id, device, state, seq, reason)
    redis.call('XADD', stream, '*', 'id', id, 'device', device, 'state', state, 'seq', seq, 'ts', seconds(),
        'reason', reason)
end

-- A message for a node's control channel: its kind and its words, between zero bytes.
local function tell(channels, incarnation, ...)
    redis.call('PUBLISH', channels .. incarnation, table.concat({...}, '\0'))
end
