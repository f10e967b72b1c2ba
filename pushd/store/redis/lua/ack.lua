-- uses inbox
-- Remove messages from an inbox that have arrived, with a receipt each.
-- KEYS  device, inbox, expiries, receipt, waiting
-- ARGV  now, incarnation, epoch, device id, state (for the receipts), then each seq
-- ->  how many were there; -1 if this node does not hold the device with that epoch
-- Works when the server is full.
local LOOK = 4
local held = redis.call('HMGET', KEYS[1], 'e', 'n')
if held[1] ~= ARGV[3] or held[2] ~= ARGV[2] then
    return -1
end
local wanted, order, highest = {}, {}, 0
for index = 6, #ARGV do
    local seq = tonumber(ARGV[index])
    if not wanted[seq] then
        wanted[seq] = true
        order[#order + 1] = seq
        highest = math.max(highest, seq)
    end
end
local found, count, start, head, done = {}, 0, 0, true, false
local asked, rows
repeat
    asked = #order - count + LOOK
    rows = redis.call('LRANGE', KEYS[2], start, start + asked - 1)
    for place, entry in ipairs(rows) do
        local seq = seq_of(entry)
        if wanted[seq] then
            found[seq] = entry
            count = count + 1
            head = head and start + place == count
        end
        done = done or seq >= highest
    end
    start = start + #rows
until #rows < asked or count == #order or done
local entries = {}
for _, seq in ipairs(order) do
    entries[#entries + 1] = found[seq]
end
take_out(KEYS[2], KEYS[3], KEYS[4], KEYS[5], ARGV[4], entries, head, ARGV[5])
return count
