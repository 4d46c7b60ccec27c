"""What a fault is. Not here: the faults, each in its file beside this one."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """`run(contestant, folder, seconds)` gives a `Row`; `contestants()` is asked once all is built.
    `seconds` is how long the fault lasts by default."""

    name: str
    title: str
    done: str
    counted: str
    aim: str
    seconds: int
    contestants: Callable
    run: Callable
