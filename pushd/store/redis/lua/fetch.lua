-- uses inbox
-- Read the next messages of an inbox, and mark them as sent. Expired ones are removed.
-- KEYS  device, inbox, expiries, receipt, waiting
-- ARGV  now, incarnation, epoch, device id, after (seq), limit
-- ->  nothing if this node does not hold the device with that epoch; else
--     the highest seq that was sent before, 1 if there were so many expired ones that there may be more behind them
--     (else 0), and then the entries
-- Works when the server is full: to deliver is how it becomes empty again.
local LOOK, MOST_EXPIRED = 8, 200
local held = redis.call('HMGET', KEYS[1], 'e', 'n', 'f')
if held[1] ~= ARGV[3] or held[2] ~= ARGV[2] then
    return false
end
local after, limit = tonumber(ARGV[5]), tonumber(ARGV[6])
local sent = tonumber(held[3] or 0)
local found, expired, start, head = {}, {}, 0, true
local asked, rows
repeat
    asked = limit - #found + LOOK
    rows = redis.call('LRANGE', KEYS[2], start, start + asked - 1)
    for _, entry in ipairs(rows) do
        local seq = seq_of(entry)
        if seq <= after then
            head = false
        elseif #found < limit and #expired < MOST_EXPIRED then
            if expiry_of(entry) <= now then
                expired[#expired + 1] = entry
                head = head and #found == 0
            else
                found[#found + 1] = entry
            end
        end
    end
    start = start + #rows
until #rows < asked or #found == limit or #expired == MOST_EXPIRED
take_out(KEYS[2], KEYS[3], KEYS[4], ARGV[4], expired, head, nil, 'expired')
if #expired > 0 then
    redis.call('DECRBY', KEYS[5], #expired)
end
local more = 0
if #expired == MOST_EXPIRED and #found < limit then
    more = 1
end
if #found > 0 and seq_of(found[#found]) > sent then
    write_though_full(KEYS[2])
    redis.call('HSET', KEYS[1], 'f', whole(seq_of(found[#found])))
end
local answer = {sent, more}
for _, entry in ipairs(found) do
    answer[#answer + 1] = entry
end
return answer
