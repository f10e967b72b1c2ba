-- Write what devices say to the uplink stream, each event once.
-- KEYS  uplink, then each device
-- ARGV  now, incarnation, then of each event: device id, epoch, conn, entry id, event, data
-- ->  for each event 1, or 0 if it was written before; -1 if this node does not hold the device with that epoch
-- A device's events come one after the other, so it is enough to remember the last entry id.
local node = string.match(ARGV[2], '^(.*)~[^~]*$')
local answer = {}
for place = 1, #KEYS - 1 do
    local key, first = KEYS[place + 1], 6 * place - 3
    local epoch, entry = ARGV[first + 1], ARGV[first + 3]
    local held = redis.call('HMGET', key, 'e', 'n', 'u')
    if held[1] ~= epoch or held[2] ~= ARGV[2] then
        answer[place] = -1
    elseif held[3] == entry then
        answer[place] = 0
    else
        redis.call('XADD', KEYS[1], '*', 'device', ARGV[first], 'event', ARGV[first + 4], 'data', ARGV[first + 5],
            'id', entry, 'ts', seconds(), 'conn', ARGV[first + 2], 'epoch', epoch, 'node', node)
        redis.call('HSET', key, 'u', entry)
        answer[place] = 1
    end
end
return answer
