-- Entries of a services' stream have been dealt with: they go, from the group and from the stream.
-- KEYS  stream
-- ARGV  now, group, then each entry id
-- ->  nothing
redis.call('XACK', KEYS[1], unpack(ARGV, 2))
redis.call('XDEL', KEYS[1], unpack(ARGV, 3))
return false
