-- uses inbox
-- Put a message into the inboxes of devices.
-- KEYS  receipt, all, expiries, waiting, floor, then device, inbox and marks of each device
-- ARGV  now, incarnation, push id, the rest of the entry (see inbox.lua: from the length of the push id on), ttl (us),
--       messages that an inbox holds, dedupe window (us), prefix of control channels, then each device id
-- ->  now, then for each device a code and a seq
--     codes: 1 stored, 2 duplicate (with the first one's seq), 3 refused: full, 4 full, but some have expired: expire
--     them and call again; 10 more if this node holds the device
local me, id, rest, expiry = ARGV[2], ARGV[3], ARGV[4], now + tonumber(ARGV[5])
local inbox_max, dedupe, channels = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
local answer, stored = {now}, 0

local function forget_marks(marks)
    redis.call('ZREMRANGEBYSCORE', marks, '-inf', whole(now - dedupe))
    redis.call('PEXPIRE', marks, whole(math.ceil(dedupe / 1000)))
end

local function floor_of_seq()
    return redis.call('HGET', KEYS[5], 's') or 0
end

local function store(device, key, inbox, marks, last, known)
    local seq = math.max(tonumber(last or floor_of_seq()) + 1, now)
    -- the first write, and one that a full server refuses
    redis.call('RPUSH', inbox, struct.pack('>d', seq) .. struct.pack('>d', expiry) .. rest)
    redis.call('HSET', key, 's', whole(seq))
    redis.call('ZADD', marks, whole(seq), id)
    redis.call('ZADD', KEYS[3], 'LT', whole(expiry), device)
    if not known then
        redis.call('ZADD', KEYS[2], 0, device)
    end
    forget_marks(marks)
    stored = stored + 1
    return seq
end

for index = 9, #ARGV do
    local device = ARGV[index]
    local first = 3 * (index - 9) + 6
    local key, inbox, marks = KEYS[first], KEYS[first + 1], KEYS[first + 2]
    local last, node, epoch = unpack(redis.call('HMGET', key, 's', 'n', 'e'))
    local code, seq = 1, 0
    local marked = redis.call('ZSCORE', marks, id)
    if marked and tonumber(marked) + dedupe > now then
        code, seq = 2, tonumber(marked)
        write_receipt(KEYS[1], id, device, 'duplicate', whole(seq), '')
    elseif redis.call('LLEN', inbox) >= inbox_max then
        local earliest = tonumber(redis.call('ZSCORE', KEYS[3], device) or 0)
        if earliest <= now then
            code = 4
        else
            code = 3
            write_receipt(KEYS[1], id, device, 'refused', 0, 'inbox full (' .. ARGV[6] .. ' messages wait)')
        end
    else
        seq = store(device, key, inbox, marks, last, last or epoch)
        write_receipt(KEYS[1], id, device, 'stored', whole(seq), '')
        if node and node ~= me then
            tell(channels, node, 'wake', device)
        end
    end
    if node == me then
        code = code + 10
    end
    answer[#answer + 1] = code
    answer[#answer + 1] = seq
end
if stored > 0 then
    redis.call('INCRBY', KEYS[4], stored)
end
return answer
