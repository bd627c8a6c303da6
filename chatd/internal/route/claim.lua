-- A relay says that it has the connection of a device.
-- KEYS[1] the account's presence: a hash of relay:device -> epoch:when that lapses, ms.
-- ARGV: relay, device, epoch or '' for a new one, keep ms, now µs or '' for Redis' own clock.
-- Returns the epoch, then relay and epoch of each other relay that has the device too.
-- A new epoch is the time, µs, or more if need be: it rises also over a flush. Every number
-- is an integer below 2^53, which a Lua number holds exactly; only string.format writes one
-- without an exponent.
local relay, device, keep = ARGV[1], ARGV[2], tonumber(ARGV[4])
local now = tonumber(ARGV[5])
if not now then
  local t = redis.call('TIME')
  now = tonumber(t[1]) * 1000000 + tonumber(t[2])
end
local ms = math.floor(now / 1000)
local all = redis.pcall('HGETALL', KEYS[1])
if all.err then -- no hash: not ours
  redis.call('DEL', KEYS[1])
  all = {}
end
local newest, others = 0, {}
for i = 1, #all, 2 do
  local r, d = string.match(all[i], '^(%x+):(%x+)$')
  local epoch, lapses = string.match(all[i + 1], '^(%d+):(%d+)$')
  epoch, lapses = tonumber(epoch or ''), tonumber(lapses or '')
  if not r or not epoch or lapses <= ms or epoch > now + 3600000000 then
    redis.call('HDEL', KEYS[1], all[i])
  elseif d == device then
    newest = math.max(newest, epoch)
    if r ~= relay then
      others[#others + 1] = r
      others[#others + 1] = string.format('%.0f', epoch)
    end
  end
end
local epoch = tonumber(ARGV[3]) or math.max(now, newest + 1)
local text = string.format('%.0f', epoch)
redis.call('HSET', KEYS[1], relay .. ':' .. device, text .. ':' .. string.format('%.0f', ms + keep))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', keep))
table.insert(others, 1, text)
return others
