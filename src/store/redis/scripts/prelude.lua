-- What every script begins with: presence time, the epoch, leases.
-- KEYS   1 epoch, 2 clock, 3 instances, 4 instances:info, 5 ending, 6 ended, 7 online, 8 occupied, 9 versions,
--        10 and 11 the two `held` sets of the generation that the call is about, 12 known, 13 unseen; further ones as the body says, the last two of each roster.
-- ARGV   1 the circumstances, 2 the call; both msgpack.
-- Reply  msgpack: {'ok', now, epoch, settling, next due or -1, what the body adds or false, the tally}, or {the refusal's name}.
--        The tally is users who joined a channel, connections whose end was under way and that are held again, then reason by reason, with how many
--        users left a channel for it. Each is counted where it is decided.
-- A body calls `begin` first, which mints an epoch where it must, and checks all it wants to refuse before it writes anything else.
local call = redis.call
local pack = cmsgpack.pack
local AT = cmsgpack.unpack(ARGV[1])
local CALL = cmsgpack.unpack(ARGV[2])
local PREFIX, CANDIDATE, RENEW_MS, LEASE_MS, SETTLE_MS, SEEN_S = AT[1], AT[2], AT[3], AT[4], AT[5], AT[6]
-- Feeds are sharded in a Cluster: they live in the slot of the partition, and whoever hears them is on this server.
local PUBLISH, NUMSUB = 'PUBLISH', 'NUMSUB'
if AT[7] then PUBLISH, NUMSUB = 'SPUBLISH', 'SHARDNUMSUB' end
local EPOCH, CLOCK, LEASES, INFO = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local ENDING, ENDED, ONLINE, OCCUPIED, VERSIONS = KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local HELD_USERS, HELD_CHANNELS, KNOWN, UNSEEN = KEYS[10], KEYS[11], KEYS[12], KEYS[13]

local SLACK_MS = 1000
local SETTLE_MOST_MS = 60000

local host, now, epoch, floor, opened, closed
local terms_differ, known_terms
local joins, saved, leaves = 0, 0, {}
-- Of all calls before.
local joined, left

local function tell(instance, message)
  call(PUBLISH, instance and (PREFIX .. 'ctl:' .. instance) or (PREFIX .. 'ctl'), pack(message))
end

-- Who issues the numbers: the process, its replication history, and whether that began with somebody else's. A process alone is not enough: a master may
-- lose its place, take a copy of another's past, and get its place back. Its history is another then, and names the one that it follows.
-- A history is also new when a first replica comes or has long been gone, and follows none then: that is no reason for new numbers.
local function issuer()
  local info = call('INFO', 'server', 'replication')
  local function of(name)
    local _, last = string.find(info, name, 1, true)
    return string.sub(info, last + 1, last + 40)
  end
  return of('run_id:'), of('master_replid:'), string.find(of('master_replid2:'), '[^0]') ~= nil
end

local function begin()
  host = host_ms()
  local clock = call('HMGET', CLOCK, 'base', 'beat', 'renew', 'lease', 'settle')
  local ours = RENEW_MS .. ' ' .. LEASE_MS .. ' ' .. SETTLE_MS
  if clock[3] then
    known_terms = clock[3] .. ' ' .. clock[4] .. ' ' .. clock[5]
    terms_differ = known_terms ~= ours
    RENEW_MS, LEASE_MS, SETTLE_MS = tonumber(clock[3]), tonumber(clock[4]), tonumber(clock[5])
  end
  now = tonumber(clock[1] or 0)
  if clock[2] then
    now = now + math.min(math.max(host - tonumber(clock[2]), 0), RENEW_MS + SLACK_MS)
  end
  local run, history, follows = issuer()
  local stored = call('HMGET', EPOCH, 'id', 'run', 'opened', 'closed', 'floor', 'history', 'joins', 'leaves')
  epoch, opened, closed = stored[1], tonumber(stored[3]), stored[4] == '1'
  floor = tonumber(stored[5] or 0)
  joined, left = tonumber(stored[7] or 0), tonumber(stored[8] or 0)
  local same = stored[6] == history
  if not epoch or stored[2] ~= run or (not same and follows) then
    epoch, opened, closed = CANDIDATE, now, false
    call('HSET', EPOCH, 'id', epoch, 'run', run, 'opened', now, 'closed', 0, 'history', history)
    tell(nil, { 'epoch', epoch })
  elseif not same then
    call('HSET', EPOCH, 'history', history)
  end
end

local function settle()
  local age = now - opened
  if closed or age < SETTLE_MS then return end
  if age < SETTLE_MOST_MS then
    local alive = call('ZRANGEBYSCORE', LEASES, '(' .. now, '+inf')
    for _, generation in ipairs(alive) do
      local info = call('HGET', INFO, generation) or ''
      if string.match(info, '^%d+ (%S+)') ~= epoch then return end
    end
  end
  closed = true
  call('HSET', EPOCH, 'closed', 1)
  tell(nil, { 'settled', epoch })
end

local function reply(more)
  local due = call('ZRANGE', ENDING, 0, 0, 'WITHSCORES')[2]
  local lease = call('ZRANGE', LEASES, 0, 0, 'WITHSCORES')[2]
  due, lease = due and tonumber(due), lease and tonumber(lease)
  if lease and (not due or lease < due) then due = lease end
  local tally, before = { joins, saved }, joined + left
  joined = joined + joins
  for reason, users in pairs(leaves) do
    left = left + users
    tally[#tally + 1] = reason
    tally[#tally + 1] = users
  end
  if joined + left > before then call('HSET', EPOCH, 'joins', joined, 'leaves', left) end
  return pack({ 'ok', now, epoch, not closed, due or -1, more or false, tally })
end
