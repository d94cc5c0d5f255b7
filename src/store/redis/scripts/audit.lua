-- audit: looks again, at one moment, at what a reader found suspicious, and mends it.
-- KEYS      those of the prelude (the held sets are not used), then two for each roster
-- CALL      roster names, rows one after the other (roster, connection),
--           users of channels one after the other (roster, user, connections that may be the user's, joined by spaces)
-- Returns   the beat
-- Publishes nothing of its own: where what mirrors show may be wrong the number is raised, and they read again
begin()
local rows, lists = CALL[2], CALL[3]
local wanted, users, suspects = {}, {}, {}
for i = 1, #CALL[1] do wanted[i], users[i] = {}, {} end
for at = 1, #rows, 2 do table.insert(wanted[rows[at]], rows[at + 1]) end
for at = 1, #lists, 3 do
  table.insert(users[lists[at]], lists[at + 1])
  for id in string.gmatch(lists[at + 2], '%S+') do table.insert(wanted[lists[at]], id) end
end
load(wanted, users)
-- A roster that was read only for its index has not been counted yet.
for _, r in ipairs(rosters) do
  r.count = call('HLEN', r.key)
  r.was = r.count
end

local raised = {}
for at = 1, #rows, 2 do
  local r, connection = rosters[rows[at]], rows[at + 1]
  local member = r.name .. ' ' .. connection
  local row = row_of(r, connection)
  if not row then
    -- What cannot be read as a row is none.
    if call('HDEL', r.key, connection) == 1 then
      r.count, r.was, raised[r] = r.count - 1, r.count - 1, true
    end
  elseif is_ending(row) then
    if not deadline_of(member) then due_ops[member] = now + row.grace end
  else
    local known = call('ZSCORE', LEASES, row.holder)
    if not (known and (row.epoch == epoch or not closed)) then
      hand_over(r, connection, row, '-instance_lost:' .. instance_of(row))
      due_ops[member] = now + 2 * RENEW_MS + row.grace
    end
  end
end
for at = 1, #lists, 3 do
  local r, user = rosters[lists[at]], lists[at + 1]
  local right, seen = {}, {}
  local function look(id)
    local row = row_of(r, id)
    if not seen[id] and row and row.user == user then
      seen[id] = true
      right[#right + 1] = id
    end
  end
  for _, id in ipairs(r.users[user]) do look(id) end
  for id in string.gmatch(lists[at + 2], '%S+') do look(id) end
  if table.concat(right, ' ') ~= table.concat(r.users[user], ' ') then
    r.users[user], r.users_dirty[user], raised[r] = right, true, true
  end
end
for _, r in ipairs(rosters) do
  if r.count > 0 and not r.number then raised[r] = true end
  if raised[r] then
    r.number = (r.number or floor) + 1
    call('HSET', VERSIONS, r.name, r.number)
  end
  local index, name = r.is_user and (r.hidden and UNSEEN or ONLINE) or OCCUPIED, string.sub(r.name, 3)
  if r.count == 0 then
    local forget = r.name .. ' '
    if r.number and not deadline_of(forget) then due_ops[forget] = now + FORGET_MS end
  end
  if r.is_user or not r.hidden then
    local mended
    if r.count > 0 then mended = call('ZADD', index, 0, name) else mended = call('ZREM', index, name) end
    if mended == 1 and not r.hidden then table.insert(r.count > 0 and turned.come or turned.gone, r.name) end
    -- Of whom nothing is kept any more, that has expired.
    if r.is_user and not r.hidden and call('EXISTS', r.side) == 0 then call('ZREM', KNOWN, name) end
  end
end
flush()
return reply()
