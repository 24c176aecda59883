"""What every scenario is given: places, loops, how much to do, and where to put what it finds."""

from __future__ import annotations

from pathlib import Path

import attrs

from _directories import Place
from _figures import Results
from _loops import Loops


@attrs.frozen
class Sizes:
    """How much is done. More makes figures steadier and changes nothing else."""

    warm_up: int = 20
    """Rounds of single calls before the timing starts."""
    single: int = 500
    """Rounds of single calls."""
    together: int = 40
    """Rounds of calls that share parents."""
    tasks: int = 100
    """How many such calls at once."""
    bulk: int = 9
    """Rounds of many directories."""
    parents: int = 100
    """Of those, and as many directories in each."""
    slow: int = 5
    """Rounds on the slow mount."""
    slow_parents: int = 40
    slow_children: int = 25
    growth: int = 3
    """Rounds; the few are made so often in each that both make as many."""
    few: int = 1_000
    many: int = 100_000
    windows: int = 8
    """Pairs of spans, with and without the dead mount, for this project; peers have fewer."""
    span: float = 1.0
    """Seconds."""
    stuck: int = 200
    """Calls on the dead mount."""
    cancelled: int = 400
    """Calls that are cancelled on a healthy mount."""
    hung: int = 50
    """Calls that are cancelled while they hang, at a time."""
    times: int = 5
    """How often so."""
    calm: float = 0.2
    """Seconds without a new thread after which everything hangs that can."""
    all_peers: bool = True
    """Whether all of them meet a mount that hangs; otherwise one of trio's and one of asyncio's."""
    counted: int = 200
    """Calls in which system calls and memory are counted."""


FULL = Sizes()
QUICK = Sizes(
    warm_up=1,
    single=3,
    together=2,
    tasks=10,
    bulk=2,
    parents=12,
    slow=1,
    slow_parents=8,
    slow_children=4,
    growth=1,
    few=100,
    many=1_000,
    windows=1,
    span=0.1,
    stuck=50,
    cancelled=5,
    hung=5,
    times=1,
    calm=0.05,
    all_peers=False,
    counted=5,
)
"""Enough to see that everything still runs. The figures say nothing."""


@attrs.frozen
class Bench:
    """One run."""

    loops: Loops
    places: list[Place]
    workshop: Path
    """Where to put images and mount points."""
    sizes: Sizes
    results: Results

    @property
    def quick(self) -> bool:
        """Whether the figures say nothing."""
        return self.sizes == QUICK
