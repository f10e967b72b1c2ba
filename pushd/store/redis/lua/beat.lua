-- Note that devices of this node are alive.
-- KEYS  alive, then each device
-- ARGV  now, incarnation, then id and epoch of each device
-- ->  the ids of those that this node does not hold with that epoch
local alive, lost = {}, {}
for index = 2, #KEYS do
    local device, epoch = ARGV[2 * index - 1], ARGV[2 * index]
    local held = redis.call('HMGET', KEYS[index], 'e', 'n')
    if held[1] == epoch and held[2] == ARGV[2] then
        alive[#alive + 1] = milliseconds()
        alive[#alive + 1] = device
    else
        lost[#lost + 1] = device
    end
end
if #alive > 0 then
    write_though_full(KEYS[1])
    redis.call('ZADD', KEYS[1], unpack(alive))
end
return lost
