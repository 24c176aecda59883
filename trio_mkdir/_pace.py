"""How fast a filesystem makes directories, and how many tasks are worth while then."""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable

FIRST_SLICE: Final = 0.001
"""Seconds after which the first task looks how fast the filesystem is."""
_SLOW: Final = 0.0005
"""Seconds for one directory from which on it is waiting that takes the time, so that as many tasks
as are allowed make them."""
_WORK: Final = 0.000_03
"""Seconds from which on it is the kernel's work, as on a disk with a journal: then as many tasks as
there are processors. Below that it is Python's, and only one thread at a time can do that."""
_REMEMBERED: Final = 5
"""How many visits."""


@attrs.define
class Pace:
    """What is usual: now and then a disk stalls, or this process is busy with something else."""

    _last: deque[float] = attrs.field(factory=lambda: deque(maxlen=_REMEMBERED))

    @property
    def each(self) -> float | None:
        """Seconds for one directory, as far as is known."""
        return median(self._last) if self._last else None

    def took(self, seconds: float) -> None:
        """One directory took so many ``seconds``."""
        self._last.append(seconds)

    def width(self, most: int) -> int:
        """How many tasks are worth while, ``most`` at the most."""
        each = self.each or 0.0
        return most if each > _SLOW else min(most, _processors()) if each > _WORK else 1


def median(seconds: Iterable[float]) -> float:
    """The one in the middle; of two the lower one."""
    in_order = sorted(seconds)
    return in_order[(len(in_order) - 1) // 2]


def _processors() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # pragma: no cover - not Linux
