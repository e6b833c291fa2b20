-- The request from the command line (method, content type, file of the body, more headers as
-- "Name: value"), the result as JSON: wrk's own report rounds, and leaves out p99.9.
function init(args)
   wrk.method = args[1]
   wrk.headers["Content-Type"] = args[2]
   local file = assert(io.open(args[3], "rb"))
   wrk.body = file:read("*a")
   file:close()
   for at = 4, #args do
      local name, value = args[at]:match("^([^:]+): (.*)$")
      wrk.headers[name] = value
   end
end

function done(summary, latency)
   local e = summary.errors
   io.write(string.format(
      '{"requests": %d, "seconds": %.6f, "errors": %d, "p50": %.3f, "p99": %.3f, "p999": %.3f}\n',
      summary.requests, summary.duration / 1e6,
      e.connect + e.read + e.write + e.status + e.timeout,
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3))
end
