-- Which of the ids in messages were called off. Only asked while some are kept.
-- A message says its id in a header; one of Celery's older protocol only in what replies refer to. In a body these
-- members cannot stand: there, a quotation mark has a backslash before it.
local MEMBERS = {'"id":', '"correlation_id":'}

local function called_off(revoked, message, found)
  local last
  for _, member in ipairs(MEMBERS) do
    local _, stop = string.find(message, member, 1, true)
    while stop do
      local id = string.match(message, '^ ?"(.-[^\\])"', stop + 1)
      if id and id ~= last and type(redis.pcall('ZSCORE', revoked, id)) == 'string' then
        found[#found + 1] = id
      end
      last = id or last
      _, stop = string.find(message, member, stop + 1, true)
    end
  end
end

-- Stamps that were called off, behind the version of their list; nothing where the caller knows that version.
local function stamps_since(revoked, known)
  local version = redis.pcall('GET', revoked .. ':stamps:version')
  if type(version) ~= 'string' or version == known then
    return {}
  end
  local found = redis.pcall('ZRANGE', revoked .. ':stamps', 0, -1)
  if found.err then
    return {}
  end
  table.insert(found, 1, version)
  return found
end
