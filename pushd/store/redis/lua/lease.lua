-- Take or renew a node's lease.
-- KEYS  nodes
-- ARGV  now, incarnation, life (ms), until when a new node waits for it (us); 0: it renews
-- ->  now, and 1, or 0 if the incarnation has been declared dead or is not known: it never comes back. Of a new node now
--     alone if it came too late: nothing was changed
-- An incarnation whose lease ran out while nobody could renew it (an outage) lives on, unless a sweeper was first.
local me, expiry = ARGV[2], whole(math.floor(now / 1000) + tonumber(ARGV[3]))
local until_when = tonumber(ARGV[4])
if until_when > 0 then
    if now > until_when then -- a network held it back: the node has taken its lease since, and may have died since
        return {now}
    end
    redis.call('ZADD', KEYS[1], expiry, me)
    return {now, 1}
end
local score = redis.call('ZSCORE', KEYS[1], me)
if not score or tonumber(score) < 0 then
    return {now, 0}
end
write_though_full(KEYS[1])
redis.call('ZADD', KEYS[1], expiry, me)
return {now, 1}
