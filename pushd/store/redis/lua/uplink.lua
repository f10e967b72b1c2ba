-- Write what a device says to the uplink stream, once.
-- KEYS  device, uplink
-- ARGV  now, incarnation, epoch, device id, conn, entry id, event, data
-- ->  1, or 0 if it was written before; -1 if this node does not hold the device with that epoch
-- A device's events come one after the other, so it is enough to remember the last entry id.
local held = redis.call('HMGET', KEYS[1], 'e', 'n', 'u')
if held[1] ~= ARGV[3] or held[2] ~= ARGV[2] then
    return -1
end
if held[3] == ARGV[6] then
    return 0
end
redis.call('XADD', KEYS[2], '*', 'device', ARGV[4], 'event', ARGV[7], 'data', ARGV[8], 'id', ARGV[6], 'ts', seconds(),
    'conn', ARGV[5], 'epoch', ARGV[3], 'node', string.match(ARGV[2], '^(.*)~[^~]*$'))
redis.call('HSET', KEYS[1], 'u', ARGV[6])
return 1
