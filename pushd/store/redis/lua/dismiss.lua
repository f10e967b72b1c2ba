-- A consumer that has gone is taken off a group, unless it has taken something that is not done.
-- KEYS  stream
-- ARGV  now, group, consumer
-- ->  1 if it is off the group, 0 if it has something yet
if #redis.call('XPENDING', KEYS[1], ARGV[2], '-', '+', 1, ARGV[3]) > 0 then
    return 0
end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[2], ARGV[3])
return 1
