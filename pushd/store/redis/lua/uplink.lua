-- Write what devices say to the uplink stream, each event once.
-- KEYS  uplink, then each device
-- ARGV  now, incarnation; packed: of each event its device id, epoch, conn, entry id, event, data
-- ->  for each event 1, or 0 if it was written before; -1 if this node does not hold the device with that epoch
-- A device's events come one after the other, so it is enough to remember the last entry id. Ids are numbered, for each
-- connection: one with a lower number was given up as lost on its way here, and written since.
local node = string.match(ARGV[2], '^(.*)~[^~]*$')

local function comes_late(entry, last)
    local conn, number = string.match(entry, '^(.*):(%d+)$')
    local last_conn, last_number = string.match(last, '^(.*):(%d+)$')
    return conn and conn == last_conn and tonumber(number) < tonumber(last_number)
end

local answer = {}
for place, uplink in ipairs(cmsgpack.unpack(ARGV[3])) do
    local key, device, epoch, conn, entry, event, data = KEYS[place + 1], unpack(uplink)
    local held = redis.call('HMGET', key, 'e', 'n', 'u')
    if tonumber(held[1]) ~= epoch or held[2] ~= ARGV[2] then
        answer[place] = -1
    elseif held[3] and (held[3] == entry or comes_late(entry, held[3])) then
        answer[place] = 0
    else
        redis.call('XADD', KEYS[1], '*', 'device', device, 'event', event, 'data', data, 'id', entry, 'ts', seconds(),
            'conn', conn, 'epoch', held[1], 'node', node)
        redis.call('HSET', key, 'u', entry)
        answer[place] = 1
    end
end
return answer
