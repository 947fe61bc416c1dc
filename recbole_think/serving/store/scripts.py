"""What a Redis server does whole or not at all, in Lua; keys and values are named where ``redis.py`` runs a script."""

# what a user did: the same event in the list of all, where its place is its number, and in that of the user
APPEND = """
for place = 2, #ARGV, 2 do
  local number = redis.call('RPUSH', KEYS[1], ARGV[place])
  redis.call('RPUSH', KEYS[2], string.format('%d', number) .. ' ' .. ARGV[place + 1])
end
redis.call('SADD', KEYS[3], ARGV[1])
return redis.call('LLEN', KEYS[1])
"""
# the newest version after the current one that has these facts, or a new one: its number, and its shards
BEGIN = """
local current, newest = tonumber(redis.call('GET', KEYS[1]) or '0'), tonumber(redis.call('GET', KEYS[2]) or '0')
for number = newest, current + 1, -1 do
  local found = redis.call('HMGET', KEYS[3] .. number, 'facts', 'shards')
  if found[1] == ARGV[1] then return {number, tonumber(found[2])} end
end
local number = redis.call('INCR', KEYS[2])
redis.call('HSET', KEYS[3] .. number, 'facts', ARGV[1], 'shards', ARGV[2])
redis.call('SADD', KEYS[4], number)
return {number, tonumber(ARGV[2])}
"""
FINISH = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('SADD', KEYS[2], ARGV[2])
if redis.call('SCARD', KEYS[2]) < tonumber(redis.call('HGET', KEYS[1], 'shards')) then return 0 end
if tonumber(redis.call('GET', KEYS[3]) or '0') > tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[3], ARGV[1])
return 1
"""
PUT = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
for place = 1, #ARGV, 3 do
  redis.call('HSET', KEYS[2], ARGV[place], ARGV[place + 1])
  redis.call('HSET', KEYS[3], ARGV[place], ARGV[place + 2])
end
return 1
"""
CURRENT = """
local current = redis.call('GET', KEYS[1])
if not current then return {} end
return {current, redis.call('HGET', KEYS[2] .. current, 'facts')}
"""
GET = """
local current = redis.call('GET', KEYS[1])
if not current then return {} end
return redis.call('HMGET', KEYS[2] .. current, unpack(ARGV))
"""
# leases by the server's own clock: field "shards-shard", value "owner until"
LEASE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('HGETALL', KEYS[1])
for place = 1, #held, 2 do
  local owner, till = string.match(held[place + 1], '(%S+) (%d+)')
  local same = held[place] == ARGV[1]
  local others = string.match(held[place], '^%d+') ~= string.match(ARGV[1], '^%d+')
  local left = tonumber(till) - now  -- more than a lease: the clock has been put back since
  if left > 0 and left <= tonumber(ARGV[3]) and owner ~= ARGV[2] and (same or others) then return 0 end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. string.format('%d', now + tonumber(ARGV[3])))
return 1
"""
LET_GO = """
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held and string.match(held, '%S+') == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
"""

SCRIPTS = {
    "append": APPEND, "begin": BEGIN, "put": PUT, "finish": FINISH, "current": CURRENT, "get": GET, "lease": LEASE,
    "let_go": LET_GO,
}  # fmt: skip
