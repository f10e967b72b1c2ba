-- End the bindings of devices, each with its one `offline`, where a condition holds.
-- KEYS  alive, bound (to `holder`), status, then each device
-- ARGV  now, incarnation, holder (an incarnation), condition and its value, reason, by (who has their connections
--       closed; '': nobody), prefix of control channels, then each device id
--       conditions: epoch <epoch> of the holder; node <incarnation>; stale <ms>: not seen since
-- ->  for each device its ended "epoch incarnation", 'kept' if the condition does not hold, 'free' if nobody holds it
-- The first write frees memory: this works when the server is full.
local me, holder, condition, value, reason, by, channels = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local function holds(device, epoch, node)
    if condition == 'epoch' then
        return epoch == value and node == holder
    elseif condition == 'node' then
        return node == value
    end
    return tonumber(redis.call('ZSCORE', KEYS[1], device) or 0) < tonumber(value)
end
local answers = {}
for index = 9, #ARGV do
    local device, key = ARGV[index], KEYS[index - 5]
    local epoch, node, conn = unpack(redis.call('HMGET', key, 'e', 'n', 'c'))
    if node and holds(device, epoch, node) then
        redis.call('HDEL', key, 'n', 'c', 'p')
        redis.call('HSET', key, 't', milliseconds())
        redis.call('ZREM', KEYS[1], device)
        write_status(KEYS[3], 'offline', device, reason, conn, epoch, node)
        if by ~= '' and node ~= me then
            tell(channels, node, 'kick', device, epoch, reason, by)
        end
        answers[#answers + 1] = epoch .. ' ' .. node
        node = nil
    else
        answers[#answers + 1] = node and 'kept' or 'free'
    end
    if node ~= holder then
        redis.call('SREM', KEYS[2], device)
    end
end
return answers
