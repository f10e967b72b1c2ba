-- Forget a device that is offline, has nothing waiting and has not been touched for long.
-- KEYS  device, inbox, marks, all, floor, then the members of each of its topics
-- ARGV  now, device id, before (ms), its topics as they were read (joined by commas)
-- ->  1, or 0 if it is not so (any more)
-- Its epoch and seq stay as the floor for unknown devices: should it come back while the clock is set back, both rise.
local epoch, seq, node, changed, topics = unpack(redis.call('HMGET', KEYS[1], 'e', 's', 'n', 't', 'o'))
local touched = math.max(tonumber(changed or 0), tonumber(seq or 0) / 1000)
if node or (topics or '') ~= ARGV[4] or touched >= tonumber(ARGV[3]) or redis.call('EXISTS', KEYS[2]) == 1 then
    return 0
end
redis.call('DEL', KEYS[1], KEYS[3])
redis.call('ZREM', KEYS[4], ARGV[2])
for index = 6, #KEYS do
    redis.call('ZREM', KEYS[index], ARGV[2])
end
local floor = redis.call('HMGET', KEYS[5], 'e', 's')
redis.call('HSET', KEYS[5], 'e', whole(math.max(tonumber(epoch or 0), tonumber(floor[1] or 0))),
    's', whole(math.max(tonumber(seq or 0), tonumber(floor[2] or 0))))
return 1
