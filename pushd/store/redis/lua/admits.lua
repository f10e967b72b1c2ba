-- uses takeovers
-- Would logins be refused now? Changes nothing.
-- KEYS  each device
-- ARGV  now, takeovers allowed, their window (us)
-- ->  for each device how long (us) it has to wait, nothing if it may come
local allowed, window = tonumber(ARGV[2]), tonumber(ARGV[3])
local answers = {}
for place, key in ipairs(KEYS) do
    local holder, taken = unpack(redis.call('HMGET', key, 'n', 'k'))
    answers[place] = holder and taken and wait_for_takeover(takeovers_within(taken, window), allowed, window) or false
end
return answers
