-- renew: an instance registers, or its lease lives on; time runs on.
-- KEYS      those of the prelude; the held sets are those of the instance
-- CALL      generation, link, program version, epoch it knows or '', done, bye
-- Returns   the beat; refusals: 'terms', 'dead', 'link'
-- Publishes a new epoch, and that it has settled
local me, link, version, known, done, bye = CALL[1], CALL[2], CALL[3], CALL[4], CALL[5], CALL[6]
local ours = { RENEW_MS, LEASE_MS, SETTLE_MS }
begin()
if terms_differ then
  if call('ZCOUNT', LEASES, '(' .. now, '+inf') > 0 then
    -- Time goes on all the same: otherwise the leases of instances that are no more would forbid other lengths for good.
    call('HSET', CLOCK, 'base', now, 'beat', host)
    return pack({ 'terms', known_terms })
  end
  RENEW_MS, LEASE_MS, SETTLE_MS = ours[1], ours[2], ours[3]
end
local registering = known ~= epoch
local deadline = call('ZSCORE', LEASES, me)
if not registering and (not deadline or tonumber(deadline) <= now) then
  return pack({ 'dead' })
end
if deadline then
  local info = call('HGET', INFO, me) or '0'
  if tonumber(string.match(info, '^%d+')) > link then
    return pack({ 'link' })
  end
end
call('HSET', CLOCK, 'base', now, 'beat', host, 'renew', RENEW_MS, 'lease', LEASE_MS, 'settle', SETTLE_MS)
if not bye then
  local settled_in = (done and not registering) and epoch or '-'
  call('ZADD', LEASES, now + LEASE_MS, me)
  call('HSET', INFO, me, link .. ' ' .. settled_in .. ' ' .. version)
elseif call('EXISTS', HELD_USERS, HELD_CHANNELS) == 0 then
  call('ZREM', LEASES, me)
  call('HDEL', INFO, me)
end
settle()
return reply()
