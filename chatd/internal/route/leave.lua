-- A relay says that a device's connection has ended, unless a newer one of the same device
-- has come to it meanwhile: the epoch fences a delete that comes late.
-- KEYS[1] as in claim.lua. ARGV: relay:device, epoch.
local value = redis.pcall('HGET', KEYS[1], ARGV[1])
if type(value) == 'string' and string.match(value, '^(%d+):') == ARGV[2] then
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0
