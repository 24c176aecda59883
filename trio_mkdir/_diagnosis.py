"""Which mounts answer and which do not, told from what the calls have met: nothing is tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._registry import registry

if TYPE_CHECKING:
    from ._mounts import Mount
    from ._statistics import MountStatistics
    from ._workers import Workers


def mounts() -> tuple[MountStatistics, ...]:
    """What goes on on each mount where anything has happened, in the whole process.

    By mount point; idle ones are forgotten where there are more than a thousand. A mount that
    hangs cannot hold it up: it only looks at what the calls of the process have met so far, and at
    the kernel's table of mounts. Usable from any thread.
    """
    debts = registry.debts.by_mount()
    found = [
        registry.workers.statistics(workers, _now(workers.mount), debts[workers])
        for workers in registry.workers.active()
    ]
    return tuple(sorted(found, key=lambda each: (each.mount.mount_point, each.mount.id)))


def _now(mount: Mount) -> Mount:
    """``mount`` with the options that it has by now, if it is still there."""
    current = registry.mounts.find(mount.mount_point)
    return current if current == mount else mount


def statistics_on(workers: Workers, mount: Mount) -> MountStatistics:
    """What goes on on the ``mount`` that these ``workers`` are for."""
    return registry.workers.statistics(workers, mount, registry.debts.by_mount()[workers])
