-- The copy of one user that a shard may be filled from (KEYS[1], a hash). Rows are fixed-width text in merge order, so the
-- larger text is the newer row, and an older one never overwrites it.
-- ARGV: ttl in seconds; the filling node, or '' for changes; its mark; then field and row, as often as there are rows.
local key, node = KEYS[1], ARGV[2]
if node == '' then
  -- Changes go into a copy that is there. Half a user is no use to anybody.
  if redis.call('EXISTS', key) == 0 then return 0 end
else
  -- A fill is everything the store has. It replaces what only this node has filled, and joins what other nodes did.
  local owner = redis.call('HGET', key, 'owner')
  if not owner or owner == node then
    redis.call('DEL', key)
    owner = node
  else
    owner = '*'
  end
  redis.call('HSET', key, 'owner', owner, 'm' .. node, ARGV[3])
end
for at = 4, #ARGV, 2 do
  local known = redis.call('HGET', key, ARGV[at])
  if not known or known < ARGV[at + 1] then
    redis.call('HSET', key, ARGV[at], ARGV[at + 1])
  end
end
redis.call('EXPIRE', key, ARGV[1])
return 1
