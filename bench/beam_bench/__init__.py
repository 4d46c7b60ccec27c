"""The parts of `bench/compare`, each with one concern.

machine      what must be there, what is built, what is told of the machine
processes    starts processes, reads what they cost from /proc, ends them whatever happens
upstreams    what stands behind the contestants
contestants  who is compared, and how each one is tuned
loads        who sends the requests: wrk, and the open loop, the idle clients of tools/bench-peer
syscalls     counts system calls
workloads    what is measured, as a table
measure      how it is measured
figures      medians and ranges, and figures.json
report       Markdown
plots        SVG
"""
