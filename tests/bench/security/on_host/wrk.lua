-- Counts wrk's answers by status, and prints them as JSON. Argument: the mean pause before a request, in milliseconds.
local threads = {}

function setup(thread)
   table.insert(threads, thread)
end

function init(args)
   pause = tonumber(args[1]) or 0
   answered, refused, other, without_retry_after = 0, 0, 0, 0
end

function delay()
   return math.random(0, 2 * pause)
end

-- names have the case that the server chose: nginx and the application differ
local function has(headers, wanted)
   for name in pairs(headers) do
      if name:lower() == wanted then
         return true
      end
   end
   return false
end

function response(status, headers)
   if status == 200 then
      answered = answered + 1
   elseif status == 503 then
      refused = refused + 1
      if not has(headers, "retry-after") then
         without_retry_after = without_retry_after + 1
      end
   else
      other = other + 1
   end
end

function done(summary)
   local words = {}
   for _, name in ipairs({"answered", "refused", "other", "without_retry_after"}) do
      local sum = 0
      for _, thread in ipairs(threads) do
         sum = sum + thread:get(name)
      end
      table.insert(words, string.format('"%s": %d', name, sum))
   end
   local errors = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
   print(string.format('{%s, "errors": %d, "seconds": %f}', table.concat(words, ", "), errors, summary.duration / 1e6))
end
