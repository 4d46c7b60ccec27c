-- What wrk sends, and what it tells at the end: one line of JSON.
-- An argument that is a number asks for a POST with a body of so many bytes.

function init(arguments)
  local bytes = tonumber(arguments[1])
  if bytes then
    wrk.method = "POST"
    wrk.body = string.rep("x", bytes)
  end
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\n{"answers":%d,"bytes":%d,"seconds":%f,"p50_us":%d,"p99_us":%d,"p999_us":%d,'
      .. '"errors":{"not connected":%d,"not read":%d,"not written":%d,"wrong status":%d,"timeout":%d}}\n',
    summary.requests, summary.bytes, summary.duration / 1e6,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
