"""The faults, as a table: the order of the modules is that of the figures.

Each module has `FAULT`: what is done, what is counted, what balancebeam owes, who takes part, and a
function that does it to one contestant. Not here: how a row is told (`report`).
"""

from beam_chaos.faults import addresses, black_hole, descriptors, drains, flapping, greedy, silent, slow_clients

TABLE = [
    module.FAULT
    for module in (flapping, silent, black_hole, slow_clients, addresses, descriptors, drains, greedy)
]
BY_NAME = {fault.name: fault for fault in TABLE}
