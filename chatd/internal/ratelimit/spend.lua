-- One step of GCRA (Limit.Spend in gcra.go is the same in Go), atomically.
-- KEYS[1] the count; ARGV: interval µs, tolerance µs, now µs or '' for Redis' own clock,
-- '' to spend or 'back' to give back what was spent.
-- Returns 0, or in how many µs to try again.
-- Every number is an integer below 2^53, which a Lua number holds exactly; only
-- string.format writes one without an exponent.
local interval, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
local now = tonumber(ARGV[3])
if not now then
  local t = redis.call('TIME')
  now = tonumber(t[1]) * 1000000 + tonumber(t[2])
end
local function keep(tat)
  redis.call('SET', KEYS[1], string.format('%.0f', tat), 'PX', string.format('%.0f', math.ceil((tat - now) / 1000)))
end
local tat = tonumber(redis.call('GET', KEYS[1]) or '') or now
if ARGV[4] == 'back' then
  if tat - interval > now then
    keep(tat - interval)
  else
    redis.call('DEL', KEYS[1])
  end
  return 0
end
tat = math.min(math.max(tat, now), now + tolerance)
local nextTat = tat + interval
local wait = nextTat - tolerance - now
if wait > 0 then
  return wait
end
keep(nextTat)
return 0
