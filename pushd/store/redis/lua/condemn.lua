-- Declare dead whose lease has run out, and name the dead. A score is the end of a lease (ms), or minus the time of
-- death.
-- KEYS  nodes
-- ARGV  now, incarnation, until when this node may judge (ms)
-- ->  for each dead incarnation its name and for how long it has been dead (ms)
if now <= tonumber(ARGV[3]) * 1000 then
    for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], 0, '(' .. milliseconds(), 'LIMIT', 0, 200)) do
        if node ~= ARGV[2] then
            write_though_full(KEYS[1])
            redis.call('ZADD', KEYS[1], '-' .. milliseconds(), node)
        end
    end
end
local dead = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(0', 'WITHSCORES', 'LIMIT', 0, 200)
for index = 2, #dead, 2 do
    dead[index] = whole(math.floor(now / 1000) + tonumber(dead[index]))
end
return dead
