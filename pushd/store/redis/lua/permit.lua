-- Make a device legal, with a token, or not legal any more.
-- KEYS  legal
-- ARGV  now, until when the caller waits for it (us), device id, and its token (without: it is not legal any more)
-- ->  now; 1 after it if it was done, nothing if it came too late
if now > tonumber(ARGV[2]) then -- a network held it back: the caller has set another token since, or taken it away
    return {now}
end
if ARGV[4] then
    redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
else
    redis.call('HDEL', KEYS[1], ARGV[3])
end
return {now, 1}
