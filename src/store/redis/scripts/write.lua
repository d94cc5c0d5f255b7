-- write: a batch of one instance, each entry on its own.
-- KEYS      those of the prelude, the held sets of the writer, then two for each roster
-- CALL      roster names, generation, link, epoch, entries one after the other:
--           0 present: roster, connection, take, fresh, limit, remaining or -1 for held, user, since, changed,
--                      the row from the holder to what others do not see, payload, since as text
--           1 claim:   roster, connection, take of the token
--           2 release: roster, connection
--           3 absent:  roster, connection, take or -1, reason
--           4 person:  roster of the user, '', serial, hidden, lasting, profile
--           5 active:  roster of the user, '', when
--           6 forget:  roster of the user, ''
--           A user's row stands before the channels of its connection: whoever has lost it takes no channel with it
-- Returns   the beat and the outcomes one after the other: 0 done with take, number, changed, since, record or false; 1 claimed with the row and the
--           record or false; 2 gone; 3 lost; 4 full; 5 hidden with the record; 6 later with the record.
--           Refusals: 'epoch', 'dead', 'link'
-- Publishes each changed roster once; to instances what of theirs was overruled
local me, link, batch_epoch, entries = CALL[2], CALL[3], CALL[4], CALL[5]
local my_instance = string.match(me, '^([^:]*)')
local DONE, CLAIMED, GONE, LOST, FULL, HIDDEN, LATER = 0, 1, 2, 3, 4, 5, 6
local LENGTH = { [0] = 13, 4, 3, 5, 7, 4, 3 }

begin()
if batch_epoch ~= epoch then return pack({ 'epoch' }) end
local lease = call('ZSCORE', LEASES, me)
if not lease or tonumber(lease) <= now then return pack({ 'dead' }) end
if tonumber(string.match(call('HGET', INFO, me) or '0', '^%d+')) ~= link then return pack({ 'link' }) end

local any_ended = call('EXISTS', ENDED) == 1
local wanted, users, fresh = {}, {}, {}
for i = 1, #CALL[1] do wanted[i], users[i] = {}, {} end
do
  local seen = {}
  local at = 1
  while entries[at] do
    local kind, r, connection = entries[at], entries[at + 1], entries[at + 2]
    local mine = wanted[r]
    if connection ~= '' then mine[#mine + 1] = connection end
    if kind == 0 then
      local user = entries[at + 7]
      local known = seen[r] or {}
      seen[r] = known
      if not known[user] then
        known[user] = true
        users[r][#users[r] + 1] = user
      end
      if any_ended and entries[at + 4] then fresh[#fresh + 1] = CALL[1][r] .. ' ' .. connection .. ' ' .. text_of(entries[at + 3]) end
    end
    at = at + LENGTH[kind]
  end
end
load(wanted, users)
if #fresh > 0 then
  for i, deadline in ipairs(fetch('ZMSCORE', ENDED, fresh)) do
    if deadline then known_ended[fresh[i]] = true end
  end
end

local out, filled = {}, 0
local function answer(kind)
  filled = filled + 1
  out[filled] = kind
end

local function done(take, number, changed, since, record)
  out[filled + 1], out[filled + 2], out[filled + 3] = DONE, take, number
  out[filled + 4], out[filled + 5], out[filled + 6] = changed, since, record or false
  filled = filled + 6
end

local function is_full(r, user, limit)
  if r.is_user then return r.count >= limit end
  return r.user_count >= limit and #r.users[user] == 0
end

-- Connections whose row in the user's roster, which decides, was found lost or gone in this call: their channels are so too.
local decided = {}

local function refuse(r, connection, kind)
  if r.is_user then decided[connection] = { kind } end
  return answer(kind)
end

-- Returns whether the writer holds the row afterwards.
local function present(r, connection, at, member)
  if not r.is_user and decided[connection] then
    for _, part in ipairs(decided[connection]) do answer(part) end
    return
  end
  local take, limit, remaining = entries[at + 3], entries[at + 5], entries[at + 6]
  local user = entries[at + 7]
  local wished, changed, shows = entries[at + 8], entries[at + 9], entries[at + 11]
  local before = row_of(r, connection)
  local record = false
  if not before then
    if take == 0 then
      take = 1
    elseif not entries[at + 4] or ((any_ended or #ended_ops > 0) and known_ended[member .. ' ' .. text_of(take)]) then
      return refuse(r, connection, GONE)
    end
    if r.is_user then
      record = record_of(r)
      if record and record[2] and not r.hidden then
        decided[connection] = { HIDDEN, record }
        answer(HIDDEN)
        return answer(record)
      end
    end
    if limit > 0 and is_full(r, user, limit) then return answer(FULL) end
  else
    if before.user ~= user then return refuse(r, connection, LOST) end
    if take == 0 then
      take = before.take + 1
    elseif before.take > take
      or (before.take == take and before.epoch == epoch and instance_of(before) ~= my_instance) then
      return refuse(r, connection, LOST)
    end
    if before.take < take then overrule(my_instance, r, connection, 'replaced') end
  end

  local others_since, others_changed = others_of(r, connection, user)
  local since = math.min(wished, others_since or wished, before and before.since or wished)
  local place = math.max(before and before.changed or 0, changed)
  local number = r.number or 0
  if not before or payload(before) ~= shows then
    number = bump(r)
    if changed == 0 then place = math.max(number, others_changed + 1, place + 1) end
    r.changes[#r.changes + 1] = { connection, user, since, place, shows }
  end

  -- What is put back while the epoch settles was there before: nobody is told of a join.
  if not before and not r.is_user and not r.hidden and #r.users[user] == 0 and (closed or changed == 0) then joins = joins + 1 end
  if remaining < 0 then
    if before and is_ending(before) then
      if r.is_user and before.epoch == epoch then saved = saved + 1 end
      due_ops[member] = false
    end
  else
    -- The end that a lost lease brought is not what the holder means: it may know of a break that came later.
    local set = before and before.take == take and before.epoch == epoch and is_ending(before)
      and string.sub(before.holder, 1, 15) ~= '-instance_lost:'
    if not set or not deadline_of(member) then due_ops[member] = now + remaining end
  end
  local since_text = since == wished and entries[at + 12] or text_of(since)
  local text = text_of(take) .. ' ' .. text_of(place) .. ' ' .. since_text .. ' ' .. entries[at + 10] .. shows
  put(r, connection, text, user)
  done(take, number, place, since, record)
  return remaining < 0
end

local function claim(r, connection, token_take)
  local row = row_of(r, connection)
  if not row then return answer(GONE) end
  if token_take < row.valid then return answer(LOST) end
  local old, holder = row.take, instance_of(row)
  if is_ending(row) then
    if r.is_user then saved = saved + 1 end
    due_ops[r.name .. ' ' .. connection] = false
  end
  row.take, row.epoch = math.max(row.take, token_take) + 1, epoch
  local text = hand_over(r, connection, row, me)
  tell_overruled(my_instance, holder, r, connection, old, 'replaced')
  answer(CLAIMED)
  answer(text)
  return answer(r.is_user and record_of(r))
end

local function release(r, connection)
  local row = row_of(r, connection)
  if not row then return answer(GONE) end
  if row.holder ~= me then return answer(LOST) end
  hand_over(r, connection, row, '-timeout:' .. my_instance)
  due_ops[r.name .. ' ' .. connection] = now + row.grace
  return done(row.take, r.number or 0, row.changed, row.since)
end

local function absent(r, connection, take, reason)
  local row = row_of(r, connection)
  if not row then return answer(GONE) end
  -- A take that was raised there without an answer may be one that somebody else has got.
  local others = row.take == take and instance_of(row) ~= my_instance
  if take >= 0 and (row.take > take or others) then return answer(LOST) end
  if take < 0 then overrule(my_instance, r, connection, reason) end
  remove(r, connection, reason)
  return done(row.take, r.number, row.changed, row.since)
end

-- How often it is noted that a person is active.
local ACTIVE_MS = 60000

-- What is kept of the person is another: whoever shows the user hears of it as of any change.
local function tell_another(r)
  bump(r)
  r.changes[#r.changes + 1] = { '' }
  r.another = true
  if r.count == 0 then due_ops[r.name .. ' '] = now + FORGET_MS end
end

local function keep(r, at)
  local known = record_of(r)
  if known and known[1] >= entries[at + 3] then
    answer(LATER)
    return answer(known)
  end
  local record = { entries[at + 3], entries[at + 4], entries[at + 5], entries[at + 6] }
  records[r.side], r.kept = record, true
  call('HSET', r.side, 'serial', text_of(record[1]), 'hidden', record[2] and 1 or 0, 'lasting', record[3] and 1 or 0,
    'profile', record[4])
  tell_another(r)
  return done(0, r.number, 0, 0)
end

local function note_active(r, when)
  local before = tonumber(call('HGET', r.side, 'last_active') or nil)
  if not before or when >= before + ACTIVE_MS then
    call('HSET', r.side, 'last_active', text_of(when))
    r.kept = true
  end
  return done(0, r.number or 0, 0, 0)
end

local function forget(r)
  local known = call('DEL', r.side) == 1 or r.seen
  call('ZREM', KNOWN, string.sub(r.name, 3))
  records[r.side], r.kept, r.seen = false, false, false
  if known then tell_another(r) end
  return done(0, r.number or 0, 0, 0)
end

local at = 1
while entries[at] do
  local kind, r, connection = entries[at], rosters[entries[at + 1]], entries[at + 2]
  local member = r.name .. ' ' .. connection
  local holds
  if kind == 4 then
    keep(r, at)
  elseif kind == 5 then
    note_active(r, entries[at + 3])
  elseif kind == 6 then
    forget(r)
  elseif kind == 0 then
    holds = present(r, connection, at, member)
  elseif kind == 1 then
    claim(r, connection, entries[at + 3])
  elseif kind == 2 then
    release(r, connection)
  else
    absent(r, connection, entries[at + 3], entries[at + 4])
  end
  if kind < 4 then
    if not holds then
      local row = row_of(r, connection)
      holds = row and row.holder == me or false
    end
    held_ops[member] = holds
  end
  at = at + LENGTH[kind]
end
flush()
return reply(out)
