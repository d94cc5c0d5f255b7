-- write: a batch of one instance, each entry on its own.
-- KEYS      those of the prelude, the held sets of the writer, then two for each roster
-- CALL      roster names, generation, link, epoch, entries one after the other:
--           0 present: roster, connection, take, fresh, limit, remaining or -1 for held, user, since, changed,
--                      the row from the holder to what others do not see, payload, since as text
--           1 claim:   roster, connection, take of the token
--           2 release: roster, connection
--           3 absent:  roster, connection, take or -1, reason
--           A user's row stands before the channels of its connection: whoever has lost it takes no channel with it
-- Returns   the beat and the outcomes one after the other: 0 done with take, number, changed, since; 1 claimed with the row; 2 gone; 3 lost; 4 full.
--           Refusals: 'epoch', 'dead', 'link'
-- Publishes each changed roster once; to instances what of theirs was overruled
local me, link, batch_epoch, entries = CALL[2], CALL[3], CALL[4], CALL[5]
local my_instance = string.match(me, '^([^:]*)')
local DONE, CLAIMED, GONE, LOST, FULL = 0, 1, 2, 3, 4
local LENGTH = { [0] = 13, 4, 3, 5 }

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
    mine[#mine + 1] = connection
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

local function done(take, number, changed, since)
  out[filled + 1], out[filled + 2], out[filled + 3] = DONE, take, number
  out[filled + 4], out[filled + 5] = changed, since
  filled = filled + 5
end

local function is_full(r, user, limit)
  if r.is_user then return r.count >= limit end
  return r.user_count >= limit and #r.users[user] == 0
end

-- Connections whose row in the user's roster, which decides, was found lost or gone in this call: their channels are so too.
local decided = {}

local function refuse(r, connection, kind)
  if r.is_user then decided[connection] = kind end
  return answer(kind)
end

-- Returns whether the writer holds the row afterwards.
local function present(r, connection, at, member)
  if not r.is_user and decided[connection] then return answer(decided[connection]) end
  local take, limit, remaining = entries[at + 3], entries[at + 5], entries[at + 6]
  local user = entries[at + 7]
  local wished, changed, shows = entries[at + 8], entries[at + 9], entries[at + 11]
  local before = row_of(r, connection)
  if not before then
    if take == 0 then
      take = 1
    elseif not entries[at + 4] or ((any_ended or #ended_ops > 0) and known_ended[member .. ' ' .. text_of(take)]) then
      return refuse(r, connection, GONE)
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
  if not before and not r.is_user and #r.users[user] == 0 and (closed or changed == 0) then joins = joins + 1 end
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
  done(take, number, place, since)
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
  return answer(text)
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

local at = 1
while entries[at] do
  local kind, r, connection = entries[at], rosters[entries[at + 1]], entries[at + 2]
  local member = r.name .. ' ' .. connection
  local holds
  if kind == 0 then
    holds = present(r, connection, at, member)
  elseif kind == 1 then
    claim(r, connection, entries[at + 3])
  elseif kind == 2 then
    release(r, connection)
  else
    absent(r, connection, entries[at + 3], entries[at + 4])
  end
  if not holds then
    local row = row_of(r, connection)
    holds = row and row.holder == me or false
  end
  held_ops[member] = holds
  at = at + LENGTH[kind]
end
flush()
return reply(out)
