-- Entries of a services' stream have been dealt with: they go, from the group and from the stream.
-- KEYS  stream
-- ARGV  now, group; packed: the entries' ids
-- ->  nothing
local ids = cmsgpack.unpack(ARGV[3])
redis.call('XACK', KEYS[1], ARGV[2], unpack(ids))
redis.call('XDEL', KEYS[1], unpack(ids))
return false
