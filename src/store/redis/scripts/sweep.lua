-- sweep: what is due ends; rows of a generation whose lease ended begin to; settling closes; what is due next is listed.
-- KEYS      those of the prelude, the held sets of the dead generation, then two for each roster
-- CALL      roster names, most, due rows one after the other (roster, connection or '', greatest take that may go),
--           the dead generation or '', rows that its held sets name one after the other (roster, connection)
-- Returns   the beat and {due members of `ending`, dead generations}
-- Publishes each changed roster once; to instances what of theirs ended; that the epoch has settled
local most, dues, dead, lost = CALL[2], CALL[3], CALL[4], CALL[5]
begin()
local lease = dead ~= '' and tonumber(call('ZSCORE', LEASES, dead) or nil)
if lease and lease > now then lease = nil end
if not lease then lost = {} end

local wanted, users = {}, {}
for i = 1, #CALL[1] do wanted[i], users[i] = {}, {} end
for at = 1, #dues, 3 do
  if dues[at + 1] ~= '' then table.insert(wanted[dues[at]], dues[at + 1]) end
end
for at = 1, #lost, 2 do table.insert(wanted[lost[at]], lost[at + 1]) end
load(wanted, users)

local ends = lease and math.max(lease + 2 * RENEW_MS - LEASE_MS, 0)
for at = 1, #lost, 2 do
  local r, connection = rosters[lost[at]], lost[at + 1]
  local member = r.name .. ' ' .. connection
  held_ops[member] = false
  local row = row_of(r, connection)
  if row and row.holder == dead then
    hand_over(r, connection, row, '-instance_lost:' .. string.match(dead, '^([^:]*)'))
    due_ops[member] = ends + row.grace
  end
end

local function finish(r, connection, top_take)
  local member = r.name .. ' ' .. connection
  local deadline = deadline_of(member)
  if not deadline or deadline > now then return end
  if connection == '' then
    due_ops[member] = false
    if call('EXISTS', r.key) == 0 and r.number then
      floor = math.max(floor, r.number)
      call('HSET', EPOCH, 'floor', floor)
      call('HDEL', VERSIONS, r.name)
    end
    return
  end
  local row = row_of(r, connection)
  if not row or not is_ending(row) then
    due_ops[member] = false
  elseif row.take > top_take or (not closed and row.epoch ~= epoch) then
    due_ops[member] = now + POSTPONE_MS
  else
    local reason = string.match(row.holder, '^-([^:]*)')
    overrule(nil, r, connection, reason)
    remove(r, connection, reason)
  end
end

for at = 1, #dues, 3 do finish(rosters[dues[at]], dues[at + 1], dues[at + 2]) end
flush()
if lease and call('EXISTS', HELD_USERS, HELD_CHANNELS) == 0 then
  call('ZREM', LEASES, dead)
  call('HDEL', INFO, dead)
end
call('ZREMRANGEBYSCORE', ENDED, '-inf', now)
settle()
return reply({
  call('ZRANGEBYSCORE', ENDING, '-inf', now, 'LIMIT', 0, most),
  call('ZRANGEBYSCORE', LEASES, '-inf', now),
})
