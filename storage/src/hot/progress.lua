-- One user's progress in one series (KEYS[1], a hash that other tools read). The larger merge key wins: generation, chapter,
-- version, node, each exact in a Lua number. The reading status is the library row's and is guarded by that row's own order.
-- ARGV: ttl in seconds; generation ('' for a library row alone), chapter, version, node, deleted ('1' or '0'), page ('' for
-- none), updated_at; the library row's version ('' for none), node, status ('' when it is not in the library).
local key = KEYS[1]
local function newer(known, first, count, equal)
  if not known[1] then return true end
  for at = 1, count do
    local ours, theirs = tonumber(ARGV[first + at - 1]), tonumber(known[at] or '0')
    if ours ~= theirs then return ours > theirs end
  end
  return equal
end
if ARGV[2] ~= '' then
  local known = redis.call('HMGET', key, 'generation', 'current_chapter', 'version', 'node')
  if newer(known, 2, 4, false) then
    redis.call('HSET', key, 'generation', ARGV[2], 'version', ARGV[4], 'node', ARGV[5], 'updated_at', ARGV[8])
    if ARGV[6] == '1' then
      redis.call('HDEL', key, 'current_chapter', 'page', 'status')
      redis.call('HSET', key, 'deleted', '1')
    else
      redis.call('HDEL', key, 'deleted')
      redis.call('HSET', key, 'current_chapter', ARGV[3])
      if ARGV[7] == '' then redis.call('HDEL', key, 'page') else redis.call('HSET', key, 'page', ARGV[7]) end
    end
  end
end
if redis.call('EXISTS', key) == 0 then return 0 end
if ARGV[9] ~= '' then
  local known = redis.call('HMGET', key, 'library_version', 'library_node')
  if newer(known, 9, 2, true) then
    redis.call('HSET', key, 'library_version', ARGV[9], 'library_node', ARGV[10])
    if ARGV[11] == '' or redis.call('HEXISTS', key, 'deleted') == 1 then
      redis.call('HDEL', key, 'status')
    else
      redis.call('HSET', key, 'status', ARGV[11])
    end
  end
end
redis.call('EXPIRE', key, ARGV[1])
return 1
