-- Hand a qos 0 message to the nodes that hold the devices.
-- KEYS  receipt, then each device
-- ARGV  now, incarnation, push id, the message as it travels, prefix of control channels, then each device id
-- ->  now, then for each device 'gone' (published to its node), 'away' (nobody holds it) or 'here' (this node holds it,
--     and has yet to send it and to write the receipt)
local me, id, message, channels = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local answer = {now}
for index = 6, #ARGV do
    local device = ARGV[index]
    local node = redis.call('HGET', KEYS[index - 4], 'n')
    if not node then
        write_receipt(KEYS[1], id, device, 'refused', 0, 'offline')
        answer[#answer + 1] = 'away'
    elseif node == me then
        answer[#answer + 1] = 'here'
    else
        write_receipt(KEYS[1], id, device, 'delivered', 0, '')
        tell(channels, node, 'cast', device, message)
        answer[#answer + 1] = 'gone'
    end
end
return answer
