-- uses inbox
-- Put messages into the inboxes of devices, in the given order, and hand them to the nodes that hold the devices.
-- KEYS  receipt, all, expiries, waiting, floor, then device, inbox and marks of each place
-- ARGV  now, incarnation, messages that an inbox holds, dedupe window (us), window (messages on their way to a device),
--       prefix of control channels; packed: of each message its push id, event, data and ttl (us); packed: of each place a
--       device id and a message's number
-- ->  now, then for each place a code, a seq, and a seq that no entry before it in the inbox exceeds (0: it was empty)
--     codes: 1 stored, 2 duplicate (with the first one's seq), 3 refused: full, 4 full, but some have expired: expire
--     them and call again; 10 more if this node holds the device; 20 more if the message counts as sent: deliver it
-- A device that has been given everything before, with room in its window, need not read its inbox: the message goes
-- to its node as it is, marked as sent in the same step. If it gets lost on the way, the next fetch has it.
-- Each command costs the server more than its work: what is known of a device is read once, and written once.
local me, inbox_max, dedupe, window = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local channels, messages, places = ARGV[6], cmsgpack.unpack(ARGV[7]), cmsgpack.unpack(ARGV[8])
local answer, stored = {now}, 0
local nodes, handed, woken = {}, {}, {}
local known, order, rests = {}, {}, {}

local function floor_of_seq()
    return redis.call('HGET', KEYS[5], 's') or 0
end

-- A device as it is: its hash, the length of its inbox, its `tail` (see above); `entries` are what comes into it now.
local function read(device, key, inbox, marks)
    local last, node, epoch, sent = unpack(redis.call('HMGET', key, 's', 'n', 'e', 'f'))
    local it = {
        device = device, key = key, inbox = inbox, marks = marks, node = node, new = not (last or epoch),
        last = tonumber(last or floor_of_seq()), sent = tonumber(sent or 0), pushed = last,
        length = redis.call('LLEN', inbox), entries = {}, earliest = math.huge, tail = 0,
    }
    if it.length > 0 and it.length < window then
        -- All that was given out has been sent: whatever comes last in the inbox, its reader is there.
        it.tail = it.sent >= it.last and it.last or seq_of(redis.call('LRANGE', inbox, -1, -1)[1])
    end
    known[device] = it
    order[#order + 1] = it
    return it
end

-- Old marks go, and the others live on, once in each sixteenth of the window: until the last that can be made in it is
-- over. It is the seq that says which one it is, as it is the seq by which a mark grows old, whatever the clock does.
local function look_after_marks(it, seq)
    local part = dedupe / 16
    local stage = math.floor(seq / part)
    if not it.pushed or math.floor(it.last / part) ~= stage then
        redis.call('ZREMRANGEBYSCORE', it.marks, '-inf', now - dedupe)
        redis.call('PEXPIRE', it.marks, math.ceil(((stage + 1) * part + dedupe - now) / 1000))
        it.pushed = true
    end
end

-- The seq with which the device has had this push within the window, if it has.
local function had(it, id)
    local marked = tonumber(redis.call('ZSCORE', it.marks, id) or 0)
    return marked + dedupe > now and marked
end

-- Mark a push, or answer the seq with which the device has had it.
local function mark(it, id, seq)
    if redis.call('ZADD', it.marks, 'NX', seq, id) == 0 then -- the first write, and one that a full server refuses
        local before = had(it, id)
        if before then
            return before
        end
        redis.call('ZADD', it.marks, seq, id)
    end
    look_after_marks(it, seq)
end

-- A message's entry without its head; see inbox.lua.
local function rest_of(number)
    if not rests[number] then
        local id, event, data = unpack(messages, 4 * number - 3, 4 * number - 1)
        rests[number] = struct.pack('>H', #id) .. id .. struct.pack('>H', #event) .. event .. data
    end
    return rests[number]
end

local function store(it, id, rest, ttl, seq)
    local expiry = now + ttl
    local entry = struct.pack('>dd', seq, expiry) .. rest
    local hand = it.node and it.length < window and it.sent >= it.tail
    it.entries[#it.entries + 1] = entry
    it.earliest = math.min(it.earliest, expiry)
    it.length = it.length + 1
    it.last = seq
    it.tail = seq
    if hand then
        it.sent = seq
    end
    stored = stored + 1
    write_receipt(KEYS[1], id, it.device, 'stored', seq, '')
    return hand and entry
end

local function write(it)
    redis.call('RPUSH', it.inbox, unpack(it.entries))
    if it.sent > 0 then
        redis.call('HSET', it.key, 's', it.last, 'f', it.sent)
    else
        redis.call('HSET', it.key, 's', it.last)
    end
    redis.call('ZADD', KEYS[3], 'LT', it.earliest, it.device)
    if it.new then
        redis.call('ZADD', KEYS[2], 0, it.device)
    end
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

for place = 1, #places / 2 do
    local device, number = places[2 * place - 1], places[2 * place]
    local id, ttl = messages[4 * number - 3], messages[4 * number]
    local it = known[device] or read(device, KEYS[3 + 3 * place], KEYS[4 + 3 * place], KEYS[5 + 3 * place])
    local code, seq, tail, entry = 1, math.max(it.last + 1, now), it.length < window and it.tail or 0, nil
    local full = it.length >= inbox_max
    local before
    if full then
        before = had(it, id)
    else
        before = mark(it, id, seq)
    end
    if before then
        code, seq, tail = 2, before, 0
        write_receipt(KEYS[1], id, device, 'duplicate', seq, '')
    elseif full then
        seq, tail = 0, 0
        local earliest = redis.call('ZSCORE', KEYS[3], device) or (#it.entries == 0 and 0) or math.huge
        if math.min(it.earliest, tonumber(earliest)) <= now then
            code = 4
        else
            code = 3
            write_receipt(KEYS[1], id, device, 'refused', 0, 'inbox full (' .. ARGV[3] .. ' messages wait)')
        end
    else
        entry = store(it, id, rest_of(number), ttl, seq)
    end
    if it.node then
        code = tell_holder(it.node, device, code, entry, tail)
        if entry then
            code = code + 20
        end
    end
    answer[#answer + 1] = code
    answer[#answer + 1] = seq
    answer[#answer + 1] = tail
end
for _, it in ipairs(order) do
    if #it.entries > 0 then
        write(it)
    end
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
