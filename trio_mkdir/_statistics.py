"""What is known of a mount without touching it: a record for the operator of a program."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from ._mounts import Mount
    from ._paths import AnyPath


@attrs.frozen
class MountStatistics:
    """What the calls of this process have going on on one mount, at one moment.

    Its `str` is a sentence for a log or an error message.
    """

    mount: Mount
    """Which one: its mount point, type, source and options."""
    time: float = 0.0
    """`time.monotonic` at that moment, seconds."""
    busy: int = 0
    """Worker threads in a call there, stuck ones included."""
    stuck: int = 0
    """System calls that had not returned when their step's time was up or their call had ended.
    From ``Policy.stall_after`` on, further calls fail at once with `MountStalled`."""
    stuck_since: float | None = None
    """`time.monotonic` when the one that is stuck longest began, seconds, at most 10 ms too early;
    None if none is stuck."""
    stuck_operation: str | None = None
    """The name of that system call, ``"mkdir"`` as a rule; None if none is stuck, or if its thread
    has not come to it yet."""
    stuck_path: AnyPath | None = None
    """Where that is, absolute; None as for ``stuck_operation``."""
    debts: int = 0
    """Directories there whose undoing is owed; `pending_rollbacks` names them."""
    last_answer: float | None = None
    """`time.monotonic` when a step was answered last, seconds, whether or not anybody still waited
    for it; None if none was."""
    last_errno: int | None = None
    """The kernel's answer that stopped that step, if one did."""

    @property
    def stuck_seconds(self) -> float | None:
        """How long the one that is stuck longest was, at ``time``; None if none is."""
        return None if self.stuck_since is None else self.time - self.stuck_since

    def __str__(self) -> str:
        """The mount, and what is wrong with it."""
        told = f"{self.mount}: {_many(self.stuck, 'system call')} stuck"
        if self.stuck_seconds is not None:
            told += f", the longest for {self.stuck_seconds:.1f} s"
            if self.stuck_operation is not None:
                told += f" ({self.stuck_operation} of {self.stuck_path!r})"
        if self.last_answer is None:
            told += "; no answer yet"
        else:
            told += f"; last answer {self.time - self.last_answer:.1f} s ago"
            if self.last_errno is not None:
                told += f" ({errno.errorcode.get(self.last_errno, self.last_errno)})"
        if self.debts:
            told += f"; {_many(self.debts, 'rollback')} owed"
        return told


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
