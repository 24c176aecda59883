"""How fast a filesystem makes directories, and how many tasks are worth while then."""

from __future__ import annotations

import os
from typing import Final

import attrs

FIRST_SLICE: Final = 0.001
"""Seconds after which the first task looks how fast the filesystem is."""
_SLOW: Final = 0.0005
"""Seconds for one directory from which on it is waiting that takes the time, so that as many tasks
as are allowed make them."""
_WORK: Final = 0.000_05
"""Seconds from which on it is the kernel's work, as on a disk with a journal: then as many tasks as
there are processors. Below that it is Python's, and only one thread at a time can do that."""


@attrs.define
class Pace:
    """A moving average: now and then this process is busy with something else."""

    each: float | None = None
    """Seconds for one directory, as far as is known."""

    def took(self, seconds: float, count: int) -> None:
        """So many directories took so many ``seconds``."""
        each = seconds / max(1, count)
        self.each = (each + 3 * (self.each or 0.0)) / 4

    def width(self, most: int) -> int:
        """How many tasks are worth while, ``most`` at the most."""
        each = self.each or 0.0
        return most if each > _SLOW else min(most, _processors()) if each > _WORK else 1


def _processors() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # pragma: no cover - not Linux
