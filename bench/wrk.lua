-- What wrk sends, and what it tells at the end: one line of JSON.
-- Any status other than 200 is an error. Where answers are large, only one above 399 is, as wrk counts
-- itself: to look at each it would copy all bodies, and halve the load. A short one shows in the bytes.
-- Arguments: bytes of an answer; bytes of the body of a POST, for a GET none.

local MOST_COPIED = 16384
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(arguments)
  if tonumber(arguments[1]) > MOST_COPIED then
    response = nil
  end
  local bytes = tonumber(arguments[2])
  if bytes then
    wrk.method = "POST"
    wrk.body = string.rep("x", bytes)
  end
end

wrong_status = 0 -- a global one: `done` reads it from each thread

function response(status)
  if status ~= 200 then
    wrong_status = wrong_status + 1
  end
end

function done(summary, latency, _)
  local errors = summary.errors
  local wrong = 0
  for _, thread in ipairs(threads) do
    wrong = wrong + thread:get("wrong_status")
  end
  io.write(string.format(
    '\n{"answers":%d,"bytes":%d,"seconds":%f,"p50_us":%d,"p99_us":%d,"p999_us":%d,'
      .. '"errors":{"not connected":%d,"not read":%d,"not written":%d,"wrong status":%d,"timeout":%d}}\n',
    summary.requests, summary.bytes, summary.duration / 1e6,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    errors.connect, errors.read, errors.write, math.max(wrong, errors.status), errors.timeout))
end
