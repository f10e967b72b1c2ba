-- How often a device was taken over: its field `k` has the times of the last takeovers (us, separated by spaces).
local function takeovers_within(taken, window)
    local recent = {}
    for time in string.gmatch(taken or '', '%d+') do
        local age = now - tonumber(time)
        if age >= 0 and age < window then
            recent[#recent + 1] = tonumber(time)
        end
    end
    table.sort(recent)
    return recent
end

-- How long (us) until one more is allowed; nothing if it is now.
local function wait_for_takeover(recent, allowed, window)
    if #recent >= allowed then
        return whole(recent[#recent - allowed + 1] + window - now)
    end
end
