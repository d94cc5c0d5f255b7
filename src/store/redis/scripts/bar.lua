-- bar: who may not come in is added, what is over is dropped, and a page of what holds is listed.
-- KEYS      those of the prelude (the held sets are not used), then `bars` and `bars:until`
-- CALL      how many may hold, what whoever is put out is told, how many of the list are passed over and how many listed,
--           bars one after the other (name, until when tokens were issued, what remains)
-- Returns   the beat and {how many were refused, how many hold, bars one after the other (name, until when, what remains)}
-- Publishes to all instances what is new or holds longer than before
local SAME_MS, DROPPED = 1000, 1000
local most, said, passed_over, listed, asked = CALL[1], CALL[2], CALL[3], CALL[4], CALL[5]
local BARS, UNTIL = KEYS[#KEYS - 1], KEYS[#KEYS]
begin()

local over = call('ZRANGEBYSCORE', BARS, '-inf', now, 'LIMIT', 0, DROPPED)
if #over > 0 then
  call('ZREM', BARS, unpack(over))
  call('HDEL', UNTIL, unpack(over))
end

local count = call('ZCOUNT', BARS, '(' .. now, '+inf')
local refused, told = 0, {}
for at = 1, #asked, 3 do
  local name, until_ms, wanted = asked[at], asked[at + 1], now + asked[at + 2]
  local deadline = tonumber(call('ZSCORE', BARS, name) or nil)
  -- What is over and was not dropped yet is as good as gone.
  if deadline and deadline <= now then deadline = nil end
  local known = deadline and tonumber(call('HGET', UNTIL, name) or 0) or 0
  local is_later = wanted > (deadline and deadline + SAME_MS or now)
  if not deadline and count >= most then
    refused = refused + 1
  elseif is_later or (deadline and until_ms > known) then
    if not deadline then count = count + 1 end
    if is_later then deadline = wanted end
    until_ms = math.max(until_ms, known)
    call('ZADD', BARS, deadline, name)
    if until_ms > 0 then
      call('HSET', UNTIL, name, string.format('%.0f', until_ms))
    else
      call('HDEL', UNTIL, name)
    end
    told[#told + 1] = name
    told[#told + 1] = until_ms
    told[#told + 1] = deadline - now
  end
end
if #told > 0 then tell(nil, { 'barred', said, told }) end

local page = {}
if listed > 0 then
  local found = call('ZREVRANGEBYSCORE', BARS, '+inf', '(' .. now, 'WITHSCORES', 'LIMIT', passed_over, listed)
  local names = {}
  for at = 1, #found, 2 do names[#names + 1] = found[at] end
  local untils = #names > 0 and call('HMGET', UNTIL, unpack(names)) or {}
  for at, name in ipairs(names) do
    page[#page + 1] = name
    page[#page + 1] = tonumber(untils[at] or 0)
    page[#page + 1] = tonumber(found[2 * at]) - now
  end
end
return reply({ refused, count, page })
