-- Find devices that have not been seen for long. Times in the future (the clock was set back) become now.
-- KEYS  alive
-- ARGV  now, before (ms), limit
-- ->  up to `limit` ids, longest unseen first
local future = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. milliseconds(), '+inf', 'LIMIT', 0, ARGV[3])
for _, device in ipairs(future) do
    redis.call('ZADD', KEYS[1], milliseconds(), device)
end
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[2], 'LIMIT', 0, ARGV[3])
