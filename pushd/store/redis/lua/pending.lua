-- What a consumer has taken and not done; what nobody has touched for long becomes this one's: a consumer that has gone
-- had taken it, or a network has delivered this one's own call late, or lost the answer, and nobody knows of it.
-- KEYS  stream, dead
-- ARGV  now, group, consumer, whose ('own': what this consumer has; 'idle': what nobody has touched so long), for how long
--       (ms), limit, tries (an entry that others have taken so often without doing it is poison), name of the stream
-- ->  how many were gone from the stream, how many were poison, then id and fields of each entry
local stream, group, consumer, tries = KEYS[1], ARGV[2], ARGV[3], tonumber(ARGV[7])
local answer, lost, poison = {0, 0}, 0, 0
local found
if ARGV[4] == 'own' then
    found = redis.call('XPENDING', stream, group, '-', '+', ARGV[6], consumer)
else
    found = redis.call('XPENDING', stream, group, 'IDLE', ARGV[5], '-', '+', ARGV[6])
end
for _, pending in ipairs(found) do
    local id, count = pending[1], pending[4]
    local mine = pending[2] == consumer
    local entry = redis.call('XRANGE', stream, id, id)[1]
    if not entry then
        redis.call('XACK', stream, group, id)
        lost = lost + 1
    elseif not mine and count >= tries then
        local reason = 'taken ' .. count .. ' times, and never done'
        local fields = {'stream', ARGV[8], 'entry', id, 'reason', reason}
        local ours = {stream = true, entry = true, reason = true}
        for index = 1, #entry[2], 2 do
            if not ours[entry[2][index]] and #fields < 200 then
                fields[#fields + 1] = entry[2][index]
                fields[#fields + 1] = entry[2][index + 1]
            end
        end
        redis.call('XADD', KEYS[2], '*', unpack(fields))
        redis.call('XACK', stream, group, id)
        redis.call('XDEL', stream, id)
        poison = poison + 1
    else
        if not mine then
            redis.call('XCLAIM', stream, group, consumer, 0, id)
        end
        answer[#answer + 1] = entry
    end
end
answer[1], answer[2] = lost, poison
return answer
