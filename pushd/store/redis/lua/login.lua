-- uses takeovers
-- Bind devices to connections of a node, one after the other, in one step.
-- KEYS  alive, bound (to this node), status, all, floor, then of each place: device, inbox, a topic's members for each
--       new topic, and then for each assumed old one
-- ARGV  now, incarnation, until when the caller waits for it (us), takeovers allowed, their window (us), prefix of
--       control channels, then of each place: device id, conn, new topics and assumed old topics (each joined by commas)
-- ->  now; nothing else if it came too late: nothing was changed. Then of each place
--     bound <epoch> <previous> <waiting>  previous is '' or "epoch incarnation conn"; waiting: how many messages are in
--                                     the inbox. 'same' in place of 'bound' for a connection that is bound already
--     throttled <us to wait>          nothing was changed
--     topics <stored topics>          the assumption about the old topics was wrong: nothing was changed, call again
local me, allowed, window, channels = ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
if now > tonumber(ARGV[3]) then -- a network held it back: the connections that it speaks of have been given up
    return {now}
end
local no_topics = {}

local function split(topics)
    if topics == '' then
        return no_topics
    end
    local list = {}
    for topic in string.gmatch(topics, '[^,]+') do
        list[#list + 1] = topic
    end
    return list
end

-- `members`: where in KEYS those of the new topics begin; those of the old ones come after them.
local function set_topics(device, topics, stored, members)
    local new = {}
    for place, topic in ipairs(topics) do
        new[topic] = true
        redis.call('ZADD', KEYS[members + place - 1], 0, device)
    end
    for place, topic in ipairs(split(stored)) do
        if not new[topic] then
            redis.call('ZREM', KEYS[members + #topics + place - 1], device)
        end
    end
end

local function login(key, inbox, members, device, conn, topics, new_topics, assumed)
    local epoch, holder, holder_conn, previous, stored, taken, seq =
        unpack(redis.call('HMGET', key, 'e', 'n', 'c', 'p', 'o', 'k', 's'))
    stored = stored or ''
    if holder == me and holder_conn == conn then
        return {'same', epoch, previous or '', redis.call('LLEN', inbox)}
    end
    local recent = takeovers_within(taken, window)
    if holder then
        local wait = wait_for_takeover(recent, allowed, window)
        if wait then
            return {'throttled', wait}
        end
        recent[#recent + 1] = now
    end
    if stored ~= '' and stored ~= topics and stored ~= assumed then
        return {'topics', stored}
    end

    local known = epoch or seq
    local last = tonumber(epoch or redis.call('HGET', KEYS[5], 'e') or 0)
    epoch = whole(math.max(last + 1, math.floor(now / 1000)))
    local facts = {'e', epoch, 'n', me, 'c', conn, 't', milliseconds()}
    local gone = {}
    local function put(field, value)
        if value == '' then
            gone[#gone + 1] = field
        else
            facts[#facts + 1] = field
            facts[#facts + 1] = value
        end
    end
    local kept = {}
    for index = math.max(1, #recent - allowed + 1), #recent do
        kept[#kept + 1] = whole(recent[index])
    end
    previous = ''
    if holder then
        previous = whole(last) .. ' ' .. holder .. ' ' .. holder_conn
    end
    put('p', previous)
    put('o', topics)
    put('k', table.concat(kept, ' '))

    redis.call('HSET', key, unpack(facts)) -- the first write, and one that a full server refuses
    if known and #gone > 0 then
        redis.call('HDEL', key, unpack(gone))
    end
    redis.call('ZADD', KEYS[1], milliseconds(), device)
    redis.call('SADD', KEYS[2], device)
    if not known then
        redis.call('ZADD', KEYS[4], 0, device)
    end
    if stored ~= topics then
        set_topics(device, new_topics, stored, members)
    end
    write_status(KEYS[3], holder and 'takeover' or 'online', device, 'login', conn, epoch, me)
    if holder and holder ~= me then
        tell(channels, holder, 'kick', device, whole(last), 'takeover', conn)
    end
    return {'bound', epoch, previous, redis.call('LLEN', inbox)}
end

local answers, key = {now}, 6
for place = 1, (#ARGV - 6) / 4 do
    local device, conn, topics, assumed = unpack(ARGV, 4 * place + 3, 4 * place + 6)
    local new_topics = split(topics)
    answers[place + 1] = login(KEYS[key], KEYS[key + 1], key + 2, device, conn, topics, new_topics, assumed)
    key = key + 2 + #new_topics + #split(assumed)
end
return answers
