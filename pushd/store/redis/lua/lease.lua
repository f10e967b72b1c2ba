-- Take or renew a node's lease.
-- KEYS  nodes
-- ARGV  now, incarnation, life (ms), first (1: the node is new, 0: it renews)
-- ->  1 and now; 0 and now if the incarnation has been declared dead or is not known: it never comes back
-- An incarnation whose lease ran out while nobody could renew it (an outage) lives on, unless a sweeper was first.
local me, expiry = ARGV[2], whole(math.floor(now / 1000) + tonumber(ARGV[3]))
if ARGV[4] == '1' then
    redis.call('ZADD', KEYS[1], expiry, me)
    return {1, now}
end
local score = redis.call('ZSCORE', KEYS[1], me)
if not score or tonumber(score) < 0 then
    return {0, now}
end
write_though_full(KEYS[1])
redis.call('ZADD', KEYS[1], expiry, me)
return {1, now}
