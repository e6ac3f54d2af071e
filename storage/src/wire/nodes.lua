-- The nodes that use one database (KEYS[1], a hash: node -> "epoch place print time"). A node enters itself again and again; the
-- time is Redis's own. Answers: what is in the way ('taken': another run under the same id; 'secret': a node that signs with
-- another secret; 'ok': nothing), who or where that is, and how many other nodes are known.
-- ARGV: node, epoch, place, print; for how many ms an entry is fresh, and after how many it is forgotten.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local verdict, who, others = 'ok', '', 0
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  local epoch, place, print, seen = string.match(all[at + 1], '^(%S+) (%S+) (%S+) (%d+)$')
  local age = now - (tonumber(seen) or 0)
  local fresh = age < tonumber(ARGV[5])
  if all[at] == ARGV[1] then
    -- A run in the same folder that has not ended cannot be: the folder is locked. It has died.
    if fresh and epoch ~= ARGV[2] and place ~= ARGV[3] then return { 'taken', place, 0 } end
  elseif age > tonumber(ARGV[6]) then
    redis.call('HDEL', KEYS[1], all[at])
  else
    others = others + 1
    if fresh and print ~= ARGV[4] then verdict, who = 'secret', all[at] end
  end
end
redis.call('HSET', KEYS[1], ARGV[1], table.concat({ ARGV[2], ARGV[3], ARGV[4], string.format('%d', now) }, ' '))
return { verdict, who, others }
