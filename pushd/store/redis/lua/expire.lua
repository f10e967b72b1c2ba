-- uses inbox
-- Look through one part of an inbox for messages whose time is over, and remove them with a receipt each.
-- KEYS  inbox, expiries, receipt, waiting
-- ARGV  now, device id, start (place in the inbox), how many to look at, earliest expiry found so far (us, or ''), seq of
--       the entry before `start` (or '')
-- ->  how many were removed, where the next part begins (-1: this was the last), earliest expiry of those that stay, seq
--     of the entry before the next part. It begins anew if entries that were looked at have gone: others moved up
local start, look, last = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[6])
local earliest = tonumber(ARGV[5]) or math.huge
local expired, head = {}, start == 0
if start > 0 then
    local before = redis.call('LRANGE', KEYS[1], start - 1, start - 1)[1]
    if not before or seq_of(before) ~= last then
        return {0, 0, '', ''}
    end
end
local rows = redis.call('LRANGE', KEYS[1], start, start + look - 1)
for place, entry in ipairs(rows) do
    local expiry = expiry_of(entry)
    if expiry <= now then
        expired[#expired + 1] = entry
        head = head and place == #expired
    else
        earliest = math.min(earliest, expiry)
        last = seq_of(entry)
    end
end
take_out(KEYS[1], KEYS[2], KEYS[3], ARGV[2], expired, head, nil, 'expired')
if #expired > 0 then
    redis.call('DECRBY', KEYS[4], #expired)
end
if #rows == look then
    return {#expired, start + look - #expired, earliest == math.huge and '' or whole(earliest), last and whole(last) or ''}
end
write_though_full(KEYS[2])
if earliest == math.huge then
    redis.call('ZREM', KEYS[2], ARGV[2])
else
    redis.call('ZADD', KEYS[2], 'XX', whole(earliest), ARGV[2])
end
return {#expired, -1, '', ''}
