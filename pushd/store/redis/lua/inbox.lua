-- Inboxes: a list of entries in the order of seq. An entry is seq and expiry (microseconds), 8 bytes each as a double,
-- the length of the push id in 2 bytes, the push id, and what no script looks at: the event and the data.
local function seq_of(entry)
    return (struct.unpack('>d', entry))
end

local function expiry_of(entry)
    return (struct.unpack('>d', entry, 9))
end

local function push_id_of(entry)
    return string.sub(entry, 19, 18 + struct.unpack('>H', entry, 17))
end

-- Take entries out of an inbox, with a receipt each. `head`: they are its first ones. `left`: whether others stay, nil
-- if that is not known. The first write frees memory. Afterwards they are to be taken off `waiting`.
local function take_out(inbox, expiries, receipts, device, entries, head, left, state)
    if #entries == 0 then
        return
    end
    if head then
        redis.call('LPOP', inbox, #entries)
    else
        for _, entry in ipairs(entries) do
            redis.call('LREM', inbox, 1, entry)
        end
    end
    if left == nil then
        left = redis.call('EXISTS', inbox) == 1
    end
    if not left then
        redis.call('ZREM', expiries, device)
    end
    for _, entry in ipairs(entries) do
        write_receipt(receipts, push_id_of(entry), device, state, seq_of(entry), '')
    end
end
