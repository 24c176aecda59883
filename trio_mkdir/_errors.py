"""The errors: OSErrors of the class that Python gives their errno, with cause and report."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from ._causes import RootCause, root_cause
from ._events import Report
from ._mounts import NO_TABLE
from ._statistics import MountStatistics

if TYPE_CHECKING:
    from ._mounts import Mount
    from ._paths import AnyPath


class MkdirError(OSError):
    """A directory could not be made. Nothing that the call made is left, unless the report says so.

    It is always of the subclass that `OSError` itself would give its errno: ``except
    PermissionError`` and ``except MkdirError`` both catch an EACCES. ``errno``, ``strerror`` and
    ``filename`` are the kernel's answer and the path at which it came.

    Not raised for bad arguments (`TypeError`, `ValueError`), nor on cancellation, which goes
    through as `trio.Cancelled`.
    """

    root_cause: RootCause = RootCause.OTHER
    """Why it failed, as the policy sees it."""
    report: Report = Report("")
    """What was tried, undone and left."""
    mount: Mount | None = None
    """The mount on which it happened, if the mount table tells."""
    operation: str = "mkdir"
    """What could not be done at that path: ``"mkdir"``, or ``"chown"``, ``"chmod"``, ``"fsync"``
    and so on where more is asked for. Of a `StepTimeout`, the system call that has not returned."""

    __notes__: list[str]

    def add_note(self, note: str, /) -> None:
        """`BaseException.add_note`, on Python 3.10 too."""
        self.__notes__ = [*getattr(self, "__notes__", ()), note]


class MkdirBlockingIOError(MkdirError, BlockingIOError):
    """EAGAIN."""


class MkdirBrokenPipeError(MkdirError, BrokenPipeError):
    """EPIPE, ESHUTDOWN."""


class MkdirChildProcessError(MkdirError, ChildProcessError):
    """ECHILD; a FUSE server can answer anything."""


class MkdirConnectionAbortedError(MkdirError, ConnectionAbortedError):
    """ECONNABORTED."""


class MkdirConnectionRefusedError(MkdirError, ConnectionRefusedError):
    """ECONNREFUSED."""


class MkdirConnectionResetError(MkdirError, ConnectionResetError):
    """ECONNRESET."""


class MkdirFileExistsError(MkdirError, FileExistsError):
    """EEXIST."""


class MkdirFileNotFoundError(MkdirError, FileNotFoundError):
    """ENOENT."""


class MkdirInterruptedError(MkdirError, InterruptedError):
    """EINTR."""


class MkdirIsADirectoryError(MkdirError, IsADirectoryError):
    """EISDIR."""


class MkdirNotADirectoryError(MkdirError, NotADirectoryError):
    """ENOTDIR."""


class MkdirPermissionError(MkdirError, PermissionError):
    """EACCES, EPERM."""


class MkdirProcessLookupError(MkdirError, ProcessLookupError):
    """ESRCH; a FUSE server can answer anything."""


class MkdirTimeoutError(MkdirError, TimeoutError):
    """ETIMEDOUT, answered by the kernel."""


class StepTimeout(MkdirTimeoutError):
    """A system call has not returned within ``step_timeout``, and the policy waits no longer.

    Its errno is ETIMEDOUT, though no kernel said so; an ETIMEDOUT of the kernel's own is a plain
    `MkdirError` and `TimeoutError`. What the system call answers in the end is in the log and
    goes to the observers, as `LateAnswer`. The mount, and what is stuck there, is in its notes.
    """

    statistics: MountStatistics = MountStatistics(NO_TABLE)
    """What was going on on the mount when it was raised."""


class MountStalled(MkdirTimeoutError):
    """So many workers of this mount are stuck that no further one is sent there.

    Raised at once, before anything is tried, while at least ``Policy.stall_after`` system calls
    on the mount have not returned in time. As soon as one of them returns, calls go through
    again. The mount, and what is stuck there, is in its notes.
    """

    statistics: MountStatistics = MountStatistics(NO_TABLE)
    """What was going on on the mount when it was raised."""


class EscapeError(MkdirError):
    """The path leads out of the directory that it has to stay ``beneath``.

    It is absolute, or climbs above that directory by ``..``, or a symbolic link on the way is
    absolute or does so. Its errno is EXDEV, as openat2(2) answers it, and its ``root_cause`` is
    `RootCause.ESCAPES`. Without ``beneath`` it is raised only if the kernel itself answers EXDEV.
    """


class NotMounted(MkdirError):
    """The path does not lie on the mount that ``on_mount`` names; nothing is made.

    Told by the mount table, before the first system call, and once more after the last one and
    after each failure: then everything is undone. Its errno is ENODEV, which no ``mkdir(2)``
    answers, its ``root_cause`` is `RootCause.DISCONNECTED`, and ``mount`` is the mount that is
    there instead.
    """


class RollbackError(Exception):
    """One thing that a rollback nursery could not undo; the others it has undone all the same.

    Its ``__cause__`` is what went wrong: what the compensation raised, the kernel's answer to a
    removal, or `trio.TooSlowError` where the time was up. Not raised for a directory that is kept
    on purpose, because somebody else relies on it or has put something into it.
    """

    undo: object = None
    """The path that could not be removed, or the function given to ``push_undo``."""

    @classmethod
    def of(cls, undo: object, cause: BaseException) -> RollbackError:
        """The error for ``undo``, because of ``cause``."""
        error = cls(f"could not undo {undo!r}: {cause!r}")
        error.undo = undo
        error.__cause__ = cause
        return error


_NOTES: Final = 10
"""How many directories notes tell of: a call for many paths can leave thousands."""

_CLASSES: Final[dict[type[OSError], type[MkdirError]]] = {
    BlockingIOError: MkdirBlockingIOError,
    BrokenPipeError: MkdirBrokenPipeError,
    ChildProcessError: MkdirChildProcessError,
    ConnectionAbortedError: MkdirConnectionAbortedError,
    ConnectionRefusedError: MkdirConnectionRefusedError,
    ConnectionResetError: MkdirConnectionResetError,
    FileExistsError: MkdirFileExistsError,
    FileNotFoundError: MkdirFileNotFoundError,
    InterruptedError: MkdirInterruptedError,
    IsADirectoryError: MkdirIsADirectoryError,
    NotADirectoryError: MkdirNotADirectoryError,
    PermissionError: MkdirPermissionError,
    ProcessLookupError: MkdirProcessLookupError,
    TimeoutError: MkdirTimeoutError,
}


def mkdir_error(
    number: int,
    path: AnyPath,
    cause: RootCause,
    mount: Mount | None,
    *,
    kind: type[MkdirError] | None = None,
) -> MkdirError:
    """The error to raise for ``number`` at ``path``, of the class that belongs to it."""
    plain = OSError(number, os.strerror(number))  # OSError picks its own subclass
    other = EscapeError if cause is RootCause.ESCAPES else MkdirError
    error = (kind or _CLASSES.get(type(plain), other))(number, plain.strerror, path)
    error.root_cause = cause
    error.mount = mount
    return error


def not_mounted(point: AnyPath, path: AnyPath, there: Mount, *notes: str) -> NotMounted:
    """The error for a ``path`` that is ``there`` and not on the mount at ``point``."""
    error = NotMounted(errno.ENODEV, f"not on the mount of on_mount={point!r}", path)
    error.root_cause = RootCause.DISCONNECTED
    error.mount = there
    for note in notes:
        error.add_note(note)
    return error


def as_mkdir_error(error: OSError) -> MkdirError:
    """What to raise where the working directory is gone, or cannot be told."""
    number = error.errno or errno.ENOENT
    return mkdir_error(number, error.filename, root_cause(number), None)


def explain(error: MkdirError, report: Report) -> None:
    """Give ``error`` the report, and notes on what was left and what is owed."""
    error.report = report
    for kept in report.kept[:_NOTES]:
        error.add_note(f"left {kept.path!r}: {kept.why}")
    for event in report.unsynced[:_NOTES]:
        error.add_note(f"a power cut may bring back what was in {event.path!r}: {event.why}")
    for debt in report.pending[:_NOTES]:
        fate = "written to the disk" if debt.operation == "fsync" else "undone"
        error.add_note(
            f"{debt.path!r} waits for a system call ({debt.operation}) that has not returned"
            f" on {debt.mount_point}; it is {fate} when it does"
        )
    told = (report.kept, report.unsynced, report.pending)
    more = sum(max(0, len(each) - _NOTES) for each in told)
    if more:
        error.add_note(f"and {more} more, in the report")
