-- Rows: read once for a whole call, changed here, written once. Only the header of a row is looked into:
-- `take changed since holder epoch valid grace user`, then a line of what others do not see, then the payload.
-- What a writer knows beforehand stands together, so that it comes ready and is not put together here: making text of a number is dear.
-- The holder is `instance:number` when held, `-reason:instance` when ending.
-- CALL[1] is the list of roster names; their two keys, rows and users (rows and person for a user), are the last in KEYS.
local FORGET_MS = 3600000
local ENDED_MS = 60000
local POSTPONE_MS = 1000

local rosters = {}
local due_ops, held_ops, ended_ops, known_ended = {}, {}, {}, {}
local controls = {}
-- Names of rosters that came into the indexes that others see, and of those that went out.
local turned = { come = {}, gone = {} }

local function many(command, key, items)
  for i = 1, #items, 1000 do
    call(command, key, unpack(items, i, math.min(i + 999, #items)))
  end
end

local function fetch(command, key, items)
  if #items <= 1000 then return call(command, key, unpack(items)) end
  local all = {}
  for i = 1, #items, 1000 do
    for _, item in ipairs(call(command, key, unpack(items, i, math.min(i + 999, #items)))) do
      all[#all + 1] = item
    end
  end
  return all
end

local texts = {}

-- A whole number as text; each is made once in a call.
local function text_of(number)
  local text = texts[number]
  if not text then
    text = string.format('%.0f', number)
    texts[number] = text
  end
  return text
end

local function parse(text)
  local take, changed, since, holder, of, valid, grace, user, at =
    string.match(text, '^(%d+) (%d+) (%d+) ([^ ]+) ([^ ]+) (%d+) (%d+) ([^ \n]+)\n()')
  if not take then return false end
  return {
    take = tonumber(take), valid = tonumber(valid), holder = holder, epoch = of, grace = tonumber(grace),
    since = tonumber(since), changed = tonumber(changed), user = user, text = text, at = at,
  }
end

-- The row of a connection, or false. Rows are kept as text until they are looked at: most are written and not looked at again.
local function row_of(r, connection)
  local row = r.rows[connection]
  if type(row) == 'string' then
    row = parse(row)
    r.rows[connection] = row
  end
  return row or false
end

-- What follows the header.
local function body(row)
  return string.sub(row.text, row.at)
end

local function payload(row)
  if not row.payload then
    row.payload = string.sub(row.text, string.find(row.text, '\n', row.at, true) + 1)
  end
  return row.payload
end

local function compose(row)
  return text_of(row.take) .. ' ' .. text_of(row.changed) .. ' ' .. text_of(row.since) .. ' ' .. row.holder .. ' '
    .. row.epoch .. ' ' .. text_of(row.valid) .. ' ' .. text_of(row.grace) .. ' ' .. row.user .. '\n' .. body(row)
end

local function is_ending(row)
  return string.byte(row.holder) == 45
end

local function instance_of(row)
  if is_ending(row) then return string.match(row.holder, ':(.*)$') end
  return string.match(row.holder, '^([^:]*)')
end

local function none() end

-- Reads what the call needs to know: `wanted[i]` are the connections that it names in the i-th roster, `users[i]` the users that may come.
local function load(wanted, users)
  local names = CALL[1]
  if #names == 0 then return end
  local numbers = fetch('HMGET', VERSIONS, names)
  local base = #KEYS - 2 * #names
  for i, name in ipairs(names) do
    -- c: and u: are seen by others, x: and h: by nobody.
    local kind = string.byte(name)
    local r = {
      name = name, key = KEYS[base + 2 * i - 1], side = KEYS[base + 2 * i],
      is_user = kind == 117 or kind == 104, hidden = kind == 104 or kind == 120,
      number = tonumber(numbers[i] or nil), rows = {}, dirty = {}, count = 0,
    }
    rosters[i] = r
    if not r.is_user then r.users, r.users_dirty, r.user_count = {}, {}, 0 end
    if r.is_user then
      -- Without a number there are no rows.
      local all = {}
      if r.number then all = call('HGETALL', r.key) end
      r.count = #all / 2
      for j = 1, #all, 2 do r.rows[all[j]] = all[j + 1] end
    elseif #wanted[i] > 0 or #users[i] > 0 then
      local texts = #wanted[i] > 0 and fetch('HMGET', r.key, wanted[i]) or {}
      local coming, asked = users[i], {}
      for _, user in ipairs(coming) do asked[user] = true end
      for j, connection in ipairs(wanted[i]) do
        r.rows[connection] = texts[j] or false
        local row = row_of(r, connection)
        if row and not asked[row.user] then
          asked[row.user] = true
          coming[#coming + 1] = row.user
        end
      end
      if #coming > 0 then
        local lists = fetch('HMGET', r.side, coming)
        local others = {}
        for j, user in ipairs(coming) do
          local ids = {}
          for id in lists[j] and string.gmatch(lists[j], '%S+') or none do
            ids[#ids + 1] = id
            if r.rows[id] == nil then
              others[#others + 1] = id
              r.rows[id] = false
            end
          end
          r.users[user] = ids
        end
        if #others > 0 then
          local texts = fetch('HMGET', r.key, others)
          for j, id in ipairs(others) do r.rows[id] = texts[j] or false end
        end
      end
      r.count, r.user_count = call('HLEN', r.key), call('HLEN', r.side)
    end
    r.was = r.count
  end
end

-- The other rows of the row's user: since when the user is there, and the greatest place among the user's states.
local function others_of(r, connection, user)
  if r.count == 0 or (not r.is_user and #r.users[user] == 0) then return nil, 0 end
  local since, changed
  local function look(id, row)
    if id ~= connection and row and row.user == user then
      since = math.min(since or row.since, row.since)
      changed = math.max(changed or 0, row.changed)
    end
  end
  if r.is_user then
    for id in pairs(r.rows) do look(id, row_of(r, id)) end
  else
    for _, id in ipairs(r.users[user]) do look(id, row_of(r, id)) end
  end
  return since, changed or 0
end

local function deadline_of(member)
  if due_ops[member] ~= nil then return due_ops[member] end
  return tonumber(call('ZSCORE', ENDING, member) or nil)
end

local function bump(r)
  if not r.changes then
    r.starts, r.from, r.changes = not r.number, r.number or floor, {}
  end
  r.number = (r.number or floor) + 1
  return r.number
end

-- Puts a row there, as text.
local function put(r, connection, text, user)
  if not r.rows[connection] then
    -- A roster that has a number and nobody in it waits to be forgotten.
    if r.count == 0 and r.number then due_ops[r.name .. ' '] = false end
    r.count = r.count + 1
    if not r.is_user then
      local ids = r.users[user]
      if #ids == 0 then r.user_count = r.user_count + 1 end
      ids[#ids + 1] = connection
      r.users_dirty[user] = true
    end
  end
  r.rows[connection] = text
  r.dirty[connection] = true
end

-- Another generation, or none, answers for a row from now on. Returns its text.
local function hand_over(r, connection, row, holder)
  row.holder = holder
  local text = compose(row)
  put(r, connection, text, row.user)
  return text
end

local function remove(r, connection, reason)
  bump(r)
  r.changes[#r.changes + 1] = { connection, reason }
  local row = row_of(r, connection)
  due_ops[r.name .. ' ' .. connection] = false
  r.rows[connection] = false
  r.dirty[connection] = true
  r.count = r.count - 1
  if not r.is_user then
    local left = {}
    for _, id in ipairs(r.users[row.user]) do
      if id ~= connection then left[#left + 1] = id end
    end
    r.users[row.user] = left
    r.users_dirty[row.user] = true
    if #left == 0 then
      r.user_count = r.user_count - 1
      if not r.hidden then leaves[reason] = (leaves[reason] or 0) + 1 end
    end
  end
  if r.count == 0 then
    due_ops[r.name .. ' '] = now + FORGET_MS
    r.seen = r.is_user and not r.hidden
  end
end

-- The instance that answered for a take hears that somebody else ended it; whoever overrules itself knows.
local function tell_overruled(by, holder, r, connection, take, reason)
  if by ~= holder then
    controls[#controls + 1] = { holder, { 'overruled', r.name, connection, take, reason } }
  end
end

local function overrule(by, r, connection, reason)
  local row = row_of(r, connection)
  if reason ~= 'replaced' then
    local member = r.name .. ' ' .. connection .. ' ' .. text_of(row.take)
    ended_ops[#ended_ops + 1] = now + ENDED_MS
    ended_ops[#ended_ops + 1] = member
    known_ended[member] = true
  end
  tell_overruled(by, instance_of(row), r, connection, row.take, reason)
end

local function is_user_member(member)
  local kind = string.byte(member)
  return kind == 117 or kind == 104
end

-- What is kept of the person: serial, hidden, lasting, profile; or false.
-- Both rosters of a user have the same.
local records = {}

local function record_of(r)
  if records[r.side] == nil then
    local kept = call('HMGET', r.side, 'serial', 'hidden', 'lasting', 'profile')
    records[r.side] = kept[1] and { tonumber(kept[1]), kept[2] == '1', kept[3] == '1', kept[4] or '' } or false
  end
  return records[r.side]
end

-- Where the devices of a user are several, or one of several has gone, whoever holds some of them sees to it that all show the same.
local function tell_holders(r)
  local message = { 'person', string.sub(r.name, 3) }
  if r.another then
    controls[#controls + 1] = { false, message }
    return
  end
  local removed = false
  for _, change in ipairs(r.changes) do removed = removed or #change == 2 end
  if not removed and r.count < 2 then return end
  local holders, known = {}, {}
  for connection in pairs(r.rows) do
    local row = row_of(r, connection)
    local holder = row and instance_of(row)
    if holder and not known[holder] then
      known[holder] = true
      holders[#holders + 1] = holder
    end
  end
  for _, holder in ipairs(holders) do controls[#controls + 1] = { holder, message } end
end

local function write_users(r)
  local set, del = {}, {}
  for user in pairs(r.users_dirty) do
    local ids = r.users[user]
    if #ids > 0 then
      set[#set + 1] = user
      set[#set + 1] = #ids == 1 and ids[1] or table.concat(ids, ' ')
    else
      del[#del + 1] = user
    end
  end
  if #set > 0 then many('HSET', r.side, set) end
  if #del > 0 then many('HDEL', r.side, del) end
end

-- Writes what changed, and tells each changed roster's feed once.
local function flush()
  local numbers, come, gone, feeds, changed, known_people = {}, { {}, {}, {} }, { {}, {}, {} }, {}, {}, {}
  for _, r in ipairs(rosters) do
    local set, del = {}, {}
    for connection in pairs(r.dirty) do
      local row = r.rows[connection]
      if row then
        set[#set + 1] = connection
        set[#set + 1] = type(row) == 'string' and row or row.text
      else
        del[#del + 1] = connection
      end
    end
    if #set > 0 then many('HSET', r.key, set) end
    if #del > 0 then many('HDEL', r.key, del) end
    if not r.is_user then write_users(r) end
    if r.seen then call('HSET', r.side, 'last_seen', host) end
    if r.seen or r.kept then
      local record = record_of(r)
      if record and record[3] then call('PERSIST', r.side) else call('EXPIRE', r.side, SEEN_S) end
      known_people[#known_people + 1] = '0'
      known_people[#known_people + 1] = string.sub(r.name, 3)
    end
    local index = r.is_user and (r.hidden and 3 or 1) or 2
    if r.hidden and not r.is_user then
      -- Who is where without being seen stands with the user.
    elseif r.was == 0 and r.count > 0 then
      table.insert(come[index], '0')
      table.insert(come[index], string.sub(r.name, 3))
      if not r.hidden then table.insert(turned.come, r.name) end
    elseif r.was > 0 and r.count == 0 then
      table.insert(gone[index], string.sub(r.name, 3))
      if not r.hidden then table.insert(turned.gone, r.name) end
    end
    if r.changes then
      if r.is_user then tell_holders(r) end
      numbers[#numbers + 1] = r.name
      numbers[#numbers + 1] = text_of(r.number)
      feeds[#feeds + 1] = PREFIX .. 'f:' .. r.name
      changed[#changed + 1] = r
    end
  end
  if #numbers > 0 then many('HSET', VERSIONS, numbers) end
  for index, key in ipairs({ ONLINE, OCCUPIED, UNSEEN }) do
    if #come[index] > 0 then many('ZADD', key, come[index]) end
    if #gone[index] > 0 then many('ZREM', key, gone[index]) end
  end
  -- The number grows whether somebody hears of it or not, so that whoever does sees what is missing.
  if #turned.come > 0 or #turned.gone > 0 then
    local number, feed = call('HINCRBY', EPOCH, 'index', 1), PREFIX .. 'w'
    if call('PUBSUB', NUMSUB, feed)[2] > 0 then
      call(PUBLISH, feed, pack({ epoch, number, turned.come, turned.gone }))
    end
  end
  if #known_people > 0 then many('ZADD', KNOWN, known_people) end
  local add, rem = {}, {}
  for member, deadline in pairs(due_ops) do
    if deadline then
      add[#add + 1] = deadline
      add[#add + 1] = member
    else
      rem[#rem + 1] = member
    end
  end
  if #add > 0 then many('ZADD', ENDING, add) end
  if #rem > 0 then many('ZREM', ENDING, rem) end
  if #ended_ops > 0 then many('ZADD', ENDED, ended_ops) end
  local held = { { {}, {} }, { {}, {} } }
  for member, holds in pairs(held_ops) do
    local list = held[is_user_member(member) and 1 or 2][holds and 1 or 2]
    list[#list + 1] = member
  end
  for index, key in ipairs({ HELD_USERS, HELD_CHANNELS }) do
    if #held[index][1] > 0 then many('SADD', key, held[index][1]) end
    if #held[index][2] > 0 then many('SREM', key, held[index][2]) end
  end
  -- Who follows later reads later: what nobody hears need not be said.
  for first = 1, #feeds, 1000 do
    local heard = call('PUBSUB', NUMSUB, unpack(feeds, first, math.min(first + 999, #feeds)))
    for i = 2, #heard, 2 do
      if heard[i] > 0 then
        local r = changed[first - 1 + i / 2]
        local users = r.user_count
        if r.is_user then users = r.count > 0 and 1 or 0 end
        call(PUBLISH, heard[i - 1], pack({ epoch, r.from, r.number, r.starts, users, r.count, r.changes }))
      end
    end
  end
  for _, control in ipairs(controls) do tell(control[1], control[2]) end
end
