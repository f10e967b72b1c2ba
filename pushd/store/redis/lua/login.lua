-- Bind a device to a connection of a node, in one step.
-- KEYS  device, alive, bound (to this node), status, all, floor, a topic's members for each new topic, then each old one
-- ARGV  now, device id, conn, incarnation, new topics and assumed old topics (each joined by commas), takeovers allowed,
--       their window (us), prefix of control channels
-- ->  bound <epoch> <previous>        previous is '' or "epoch incarnation conn"; 'same' in place of 'bound' for a
--                                     connection that is bound already
--     throttled <us to wait>          nothing was changed
--     topics <stored topics>          the assumption about the old topics was wrong: nothing was changed, call again
local device, conn, me, topics, assumed = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local allowed, window, channels = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9]
local epoch, holder, holder_conn, previous, stored, taken, seq =
    unpack(redis.call('HMGET', KEYS[1], 'e', 'n', 'c', 'p', 'o', 'k', 's'))
stored = stored or ''
if holder == me and holder_conn == conn then
    return {'same', epoch, previous or ''}
end

local recent = {}
for time in string.gmatch(taken or '', '%d+') do
    local age = now - tonumber(time)
    if age >= 0 and age < window then
        recent[#recent + 1] = tonumber(time)
    end
end
table.sort(recent)
if holder then
    if #recent >= allowed then
        return {'throttled', whole(recent[#recent - allowed + 1] + window - now)}
    end
    recent[#recent + 1] = now
end
if stored ~= '' and stored ~= topics and stored ~= assumed then
    return {'topics', stored}
end

local known = epoch or seq
local last = tonumber(epoch or redis.call('HGET', KEYS[6], 'e') or 0)
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
    previous = last .. ' ' .. holder .. ' ' .. holder_conn
end
put('p', previous)
put('o', topics)
put('k', table.concat(kept, ' '))

redis.call('HSET', KEYS[1], unpack(facts)) -- the first write, and one that a full server refuses
if known and #gone > 0 then
    redis.call('HDEL', KEYS[1], unpack(gone))
end
redis.call('ZADD', KEYS[2], milliseconds(), device)
redis.call('SADD', KEYS[3], device)
if not known then
    redis.call('ZADD', KEYS[5], 0, device)
end
if stored ~= topics then
    local key, new = 6, {}
    for topic in string.gmatch(topics, '[^,]+') do
        key = key + 1
        new[topic] = true
        redis.call('ZADD', KEYS[key], 0, device)
    end
    for topic in string.gmatch(stored, '[^,]+') do
        key = key + 1
        if not new[topic] then
            redis.call('ZREM', KEYS[key], device)
        end
    end
end
write_status(KEYS[4], holder and 'takeover' or 'online', device, 'login', conn, epoch, me)
if holder and holder ~= me then
    tell(channels, holder, 'kick', device, whole(last), 'takeover', conn)
end
return {'bound', epoch, previous}
