-- Drop the oldest entries of a stream that is too long, but none that a consumer group has not dealt with.
-- KEYS  stream
-- ARGV  now, how many entries to keep, how many to drop at once
-- ->  how many were dropped, how many too many are left, 1 if a group holds them back (else 0)
local keep, most = tonumber(ARGV[2]), tonumber(ARGV[3])
local length = redis.call('XLEN', KEYS[1])
if length <= keep then
    return {0, 0, 0}
end

-- 'ms-n' as two numbers, to compare.
local function split(id)
    local ms, n = string.match(id, '^(%d+)-(%d+)$')
    return tonumber(ms), tonumber(n)
end
local function before(a, b)
    local a_ms, a_n = split(a)
    local b_ms, b_n = split(b)
    return a_ms < b_ms or (a_ms == b_ms and a_n < b_n)
end

-- Everything before `first` has been dealt with by every group: what a group has not seen comes after its last one.
local first
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local facts = {}
    for index = 1, #group, 2 do
        facts[group[index]] = group[index + 1]
    end
    local waiting = redis.call('XPENDING', KEYS[1], facts['name'])
    local oldest = waiting[2]
    if not oldest then
        local ms, n = string.match(facts['last-delivered-id'], '^(%d+)-(%d+)$')
        oldest = ms .. '-' .. whole(tonumber(n) + 1)
    end
    if not first or before(oldest, first) then
        first = oldest
    end
end

local rows = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', math.min(length - keep, most))
local ms, n = split(rows[#rows][1])
local cut = whole(ms) .. '-' .. whole(n + 1)
local held = 0
if first and before(first, cut) then
    cut, held = first, 1
end
local dropped = redis.call('XTRIM', KEYS[1], 'MINID', cut)
return {dropped, length - keep - dropped, held}
