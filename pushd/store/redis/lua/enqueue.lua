-- uses inbox
-- Put messages into the inboxes of devices, in the given order, and hand them to the nodes that hold the devices.
-- KEYS  receipt, all, expiries, waiting, floor, then device, inbox and marks of each place
-- ARGV  now, incarnation, messages that an inbox holds, dedupe window (us), window (messages on their way to a device),
--       prefix of control channels, how many messages; of each message its push id, the rest of its entry (see
--       inbox.lua: from the length of the push id on) and its ttl (us); of each place a device id and a message's number
-- ->  now, then for each place a code, a seq, and the seq of the inbox's last entry before it (0: it was empty)
--     codes: 1 stored, 2 duplicate (with the first one's seq), 3 refused: full, 4 full, but some have expired: expire
--     them and call again; 10 more if this node holds the device; 20 more if the message counts as sent: deliver it
-- A device that has been given everything before, with room in its window, need not read its inbox: the message goes
-- to its node as it is, marked as sent in the same step. If it gets lost on the way, the next fetch has it.
local me, inbox_max, dedupe, window = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local channels, messages = ARGV[6], tonumber(ARGV[7])
local answer, stored = {now}, 0
local nodes, handed, woken = {}, {}, {}

local function floor_of_seq()
    return redis.call('HGET', KEYS[5], 's') or 0
end

local function forget_marks(marks)
    redis.call('ZREMRANGEBYSCORE', marks, '-inf', whole(now - dedupe))
    redis.call('PEXPIRE', marks, whole(math.ceil(dedupe / 1000)))
end

-- For a node: its lists, made when they are needed first.
local function at(list, node)
    if not list[node] then
        list[node] = {}
        nodes[node] = true
    end
    return list[node]
end

local function tell_holder(node, device, code, entry, tail)
    if node == me then
        return code + 10
    elseif code > 2 then
        return code
    elseif entry then
        local list = at(handed, node)
        list[#list + 1] = struct.pack('>dI2I4', tail, #device, #entry) .. device .. entry
    else
        local list = at(woken, node)
        list[#list + 1] = device
    end
    return code
end

local first = 7 + 3 * messages
for place = 1, (#ARGV - first) / 2 do
    local device, number = ARGV[first + 2 * place - 1], tonumber(ARGV[first + 2 * place])
    local id, rest, ttl = ARGV[5 + 3 * number], ARGV[6 + 3 * number], tonumber(ARGV[7 + 3 * number])
    local key, inbox, marks = KEYS[3 + 3 * place], KEYS[4 + 3 * place], KEYS[5 + 3 * place]
    local last, node, epoch, sent = unpack(redis.call('HMGET', key, 's', 'n', 'e', 'f'))
    local code, seq, tail, entry = 1, 0, 0, nil
    local marked = redis.call('ZSCORE', marks, id)
    local length = redis.call('LLEN', inbox)
    if marked and tonumber(marked) + dedupe > now then
        code, seq = 2, tonumber(marked)
        write_receipt(KEYS[1], id, device, 'duplicate', whole(seq), '')
    elseif length >= inbox_max then
        local earliest = tonumber(redis.call('ZSCORE', KEYS[3], device) or 0)
        if earliest <= now then
            code = 4
        else
            code = 3
            write_receipt(KEYS[1], id, device, 'refused', 0, 'inbox full (' .. ARGV[3] .. ' messages wait)')
        end
    else
        if length > 0 and length < window then
            tail = seq_of(redis.call('LRANGE', inbox, -1, -1)[1])
        end
        seq = math.max(tonumber(last or floor_of_seq()) + 1, now)
        entry = struct.pack('>d', seq) .. struct.pack('>d', now + ttl) .. rest
        redis.call('RPUSH', inbox, entry) -- the first write, and one that a full server refuses
        if node and length < window and tonumber(sent or 0) >= tail then
            redis.call('HSET', key, 's', whole(seq), 'f', whole(seq))
        else
            redis.call('HSET', key, 's', whole(seq))
            entry = nil
        end
        redis.call('ZADD', marks, whole(seq), id)
        redis.call('ZADD', KEYS[3], 'LT', whole(now + ttl), device)
        if not (last or epoch) then
            redis.call('ZADD', KEYS[2], 0, device)
        end
        forget_marks(marks)
        stored = stored + 1
        write_receipt(KEYS[1], id, device, 'stored', whole(seq), '')
    end
    if node then
        code = tell_holder(node, device, code, entry, tail)
        if entry then
            code = code + 20
        end
    end
    answer[#answer + 1] = code
    answer[#answer + 1] = seq
    answer[#answer + 1] = tail
end
if stored > 0 then
    redis.call('INCRBY', KEYS[4], stored)
end
for node in pairs(nodes) do
    if handed[node] then
        tell(channels, node, 'deliver', table.concat(handed[node]))
    end
    if woken[node] then
        tell(channels, node, 'wake', unpack(woken[node]))
    end
end
return answer
