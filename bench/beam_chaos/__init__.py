"""The parts of `bench/chaos`, each with one concern. Processes, ports and the machine are those of
`bench/compare` (`beam_bench`).

proxies      who stands before the faults, and how each one is set up
upstreams    upstreams that are killed, stopped, black-holed
loads        who asks, and what became of it
rows         what one contestant did under one fault
faults/      the faults, one file each; `faults/__init__.py` is their table
report       Markdown, and figures.json
"""
