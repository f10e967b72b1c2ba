-- Declare an incarnation dead: a node says goodbye, or has found that it is not known.
-- KEYS  nodes
-- ARGV  now, incarnation
-- ->  nothing
write_though_full(KEYS[1])
redis.call('ZADD', KEYS[1], '-' .. milliseconds(), ARGV[2])
return false
