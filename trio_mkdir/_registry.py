"""The one thing that is shared by all calls of a process: mounts, workers, directories, debts."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Final

from ._debts import Debts
from ._mounts import MountTable
from ._os import OperatingSystem
from ._shared import SharedTree
from ._workers import WorkerTable

if TYPE_CHECKING:
    from ._os import Filesystem


class Registry:
    """See the module; there is one, `registry`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew: in a forked child the calls of the parent are nobody's."""
        self.mounts = MountTable()
        self.operating_system: Filesystem = OperatingSystem(self.mounts)
        self.workers = WorkerTable()
        self.tree = SharedTree()
        self.debts = Debts()
        self.random = random.Random()  # noqa: S311 - jitter; another one in each forked child


registry: Final = Registry()


# While the program starts: a descriptor that appears at the first call would look like a leak.
registry.mounts.open()


def _after_fork() -> None:
    # Not opened again before it is needed: a daemon closes all descriptors right after its fork.
    registry.mounts.close()
    registry.reset()


if hasattr(os, "register_at_fork"):  # pragma: no branch
    os.register_at_fork(after_in_child=_after_fork)
