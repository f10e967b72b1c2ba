-- uses inbox
-- Remove messages from inboxes that have arrived, with a receipt each.
-- KEYS  expiries, receipt, waiting, then device and inbox of each place
-- ARGV  now, incarnation; packed: of each place a device id, epoch, seqs, and state (for the receipts)
-- ->  for each place how many were there; -1 if this node does not hold the device with that epoch
-- Works when the server is full.
local LOOK = 4

local function ack(key, inbox, device, epoch, seqs, state)
    local held = redis.call('HMGET', key, 'e', 'n')
    local wanted, order, highest = {}, {}, 0
    for _, seq in ipairs(seqs) do
        if not wanted[seq] then
            wanted[seq] = true
            order[#order + 1] = seq
            highest = math.max(highest, seq)
        end
    end
    if tonumber(held[1]) ~= epoch or held[2] ~= ARGV[2] then
        return -1
    end
    local found, count, start, head, done = {}, 0, 0, true, false
    local asked, rows
    repeat
        asked = #order - count + LOOK
        rows = redis.call('LRANGE', inbox, start, start + asked - 1)
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
    -- What was looked at was more than was asked for, or all there is.
    take_out(inbox, KEYS[1], KEYS[2], device, entries, head, start > count, state)
    return count
end

local answer, taken = {}, 0
for place, it in ipairs(cmsgpack.unpack(ARGV[3])) do
    local count = ack(KEYS[2 + 2 * place], KEYS[3 + 2 * place], unpack(it))
    answer[place] = count
    taken = taken + math.max(count, 0)
end
if taken > 0 then
    redis.call('DECRBY', KEYS[3], taken)
end
return answer
