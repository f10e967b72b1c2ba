-- Hand qos 0 messages to the nodes that hold the devices, with a receipt each.
-- KEYS  receipt, then the device of each place
-- ARGV  now, incarnation, until when the caller waits for it (us), prefix of control channels; packed: of each message its
--       push id, event and data; packed: of each place a device id, a message's number, and whether this node has the
--       device's connection
-- ->  now; nothing else if it came too late: nobody was told anything. Then for each place 'gone' (published to its
--     node), 'here' (this node is to send it) or 'away' (nobody has it)
local me, channels, messages, places = ARGV[2], ARGV[4], cmsgpack.unpack(ARGV[5]), cmsgpack.unpack(ARGV[6])
if now > tonumber(ARGV[3]) then -- a network held it back: what it says was for then, and may have been said again
    return {now}
end
local answer, travelling = {now}, {}
for place = 1, #places / 3 do
    local device, number, here = places[3 * place - 2], places[3 * place - 1], places[3 * place]
    local id = messages[3 * number - 2]
    local node = redis.call('HGET', KEYS[place + 1], 'n')
    if not node or (node == me and not here) then
        write_receipt(KEYS[1], id, device, 'refused', 0, 'offline')
        answer[place + 1] = 'away'
    else
        write_receipt(KEYS[1], id, device, 'delivered', 0, '')
        answer[place + 1] = node == me and 'here' or 'gone'
        if node ~= me then
            travelling[node] = travelling[node] or {}
            local list, message = travelling[node], cmsgpack.pack({unpack(messages, 3 * number - 2, 3 * number)})
            list[#list + 1] = struct.pack('>dI2I4', 0, #device, #message) .. device .. message
        end
    end
end
for node, list in pairs(travelling) do
    tell(channels, node, 'cast', table.concat(list))
end
return answer
