"""The public functions: have the arguments checked, make a call, run it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from . import _step
from ._arguments import asked_for, checked_policy, demands, order_for
from ._call import Call
from ._many import ManyCall
from ._policy import Policy
from ._registry import registry

if TYPE_CHECKING:
    from ._events import PendingRollback, Report
    from ._incoming import Paths
    from ._many import Progress
    from ._paths import StrOrBytesPath

DEFAULT_POLICY: Final = Policy()


async def makedirs(
    path: StrOrBytesPath,
    /,
    mode: int = 0o777,
    exist_ok: bool = False,
    *,
    parent_mode: int | None = None,
    policy: Policy = DEFAULT_POLICY,
    beneath: StrOrBytesPath | int | None = None,
    atomic: bool = False,
    durable: bool = False,
    exact_mode: bool = False,
    owner: int | str | None = None,
    group: int | str | None = None,
    like: StrOrBytesPath | None = None,
    on_mount: StrOrBytesPath | None = None,
) -> Report:
    """Make a directory and whatever is missing above it, or nothing at all.

    Takes its first three arguments as `os.makedirs` does and can stand in for it. The deadline is
    the caller's cancel scope::

        with trio.move_on_after(2):
            await trio_mkdir.makedirs("uploads/2024/06")

    Args:
      path: `str`, `bytes` or `os.PathLike`. A relative path is taken against the working directory
          at the moment of the call, also for the rollback.
      mode: The mode of the last directory, cut by the umask.
      exist_ok: Whether a directory that is there already is a success. Then so is any error that
          the kernel answers about a directory that stands (EROFS, EACCES, ...).
      parent_mode: The mode of the directories above it, cut by the umask; ``None`` for ``0o777``,
          as `os.makedirs` does.
      policy: How long to wait for a system call, what to try again, who is told.
      beneath: A directory, by its path or as an open descriptor, that ``path`` is relative to and
          must not lead out of, by ``..`` or a symbolic link, whatever others do there meanwhile.
          It has to be there. A descriptor stays the caller's own and may be closed at once.
      atomic: Whether what is missing appears at once and whole, with its final owner and mode, or
          not at all, also if the process is killed. It is made under a hidden name beside the
          topmost directory that is missing, and gets its own by a rename that replaces nothing; an
          error where the filesystem has no such rename. What a killed process leaves is hidden, and
          removed by ``trio-mkdir --sweep``.
      durable: Whether the new directories survive a power cut once the call has returned, and
          what is undone does not come back after one. Each has to be readable, by fsync(2).
      exact_mode: Whether the last directory has precisely ``mode``, all twelve bits, whatever the
          umask. An inherited set-group-ID bit is kept all the same.
      owner: Whose every new directory is, by name or number; None for the process's user.
      group: Its group, by name or number; None for what the filesystem gives it.
      like: A directory whose owner, group, mode, ACLs and extended attributes every new one gets,
          but for what the others above say.
      on_mount: The mount point of the mount that ``path`` has to lie on, before the first and
          after the last system call, by the text of both and of the mount table. A relative one is
          taken against the working directory.

    Returns:
      What was made, relied on and tried again.

    Raises:
      MkdirError: The kernel's answer, as the subclass of `OSError` that belongs to its errno.
          Everything made is undone; what is not is in its ``report`` and its notes.
      StepTimeout: A system call has not returned in time, ``policy.retries`` included.
      MountStalled: Too many earlier system calls on this mount have not returned yet.
      EscapeError: ``path`` is absolute or leads out of ``beneath``.
      NotMounted: ``path`` does not lie on the mount at ``on_mount``; see `NotMounted`.
      NotImplementedError: The platform cannot keep it ``beneath`` anything, or give it another
          owner or an exact mode, or the filesystem is a double that opens no directories; nothing
          was made.
      LookupError: There is no user or group of that name; nothing was made.
      ValueError, TypeError: An argument is out of range or of the wrong type; nothing was made.

    **Cancellation handling**: A checkpoint, always, also when it fails. When cancelled, it undoes
    what it made, shielded, for up to ``policy.rollback_timeout`` seconds, and lets `trio.Cancelled`
    through. A system call that is stuck in the kernel is left to its thread, which undoes its
    result when it returns; see `pending_rollbacks` and `wait_settled`.
    """
    try:
        wanted = demands(atomic, durable, exact_mode, owner, group, like, on_mount)
        asked = asked_for(path, mode, parent_mode, beneath, wanted, exist_ok=exist_ok, parents=True)
        call = Call(asked, checked_policy(policy))
    except Exception:
        await trio.lowlevel.checkpoint()  # noqa: ASYNC120 - a cancellation wins
        raise
    return await call.make()


async def mkdir(
    path: StrOrBytesPath,
    /,
    mode: int = 0o777,
    *,
    exist_ok: bool = False,
    policy: Policy = DEFAULT_POLICY,
    beneath: StrOrBytesPath | int | None = None,
    atomic: bool = False,
    durable: bool = False,
    exact_mode: bool = False,
    owner: int | str | None = None,
    group: int | str | None = None,
    like: StrOrBytesPath | None = None,
    on_mount: StrOrBytesPath | None = None,
) -> Report:
    """Make one directory, as `os.mkdir` does: its parent has to be there.

    Arguments, errors and **cancellation handling** are those of `makedirs`.
    """
    try:
        wanted = demands(atomic, durable, exact_mode, owner, group, like, on_mount)
        asked = asked_for(path, mode, None, beneath, wanted, exist_ok=exist_ok, parents=False)
        call = Call(asked, checked_policy(policy))
    except Exception:
        await trio.lowlevel.checkpoint()  # noqa: ASYNC120 - a cancellation wins
        raise
    return await call.make()


async def makedirs_many(
    paths: Paths,
    /,
    mode: int = 0o777,
    *,
    exist_ok: bool = True,
    parent_mode: int | None = None,
    concurrency: int = 32,
    progress: Progress | None = None,
    policy: Policy = DEFAULT_POLICY,
    beneath: StrOrBytesPath | int | None = None,
    atomic: bool = False,
    durable: bool = False,
    exact_mode: bool = False,
    owner: int | str | None = None,
    group: int | str | None = None,
    like: StrOrBytesPath | None = None,
    on_mount: StrOrBytesPath | None = None,
) -> Report:
    """Make many directories and whatever is missing above them, or nothing at all.

    All paths together are one tree, of which each directory is made once, many in one visit to a
    worker thread. Where the filesystem is slow, threads work side by side, in different
    directories: in one directory the kernel lets only one of them in at a time.

    Args:
      paths: Any iterable or async iterable of paths. It is read piece by piece: what has come is
          made before more is read, at most some thousand at once.
      mode: The mode of the directories in ``paths``, cut by the umask. One that comes after many
          others and was made on the way to them keeps the mode that it has.
      exist_ok: Whether those may be there already. A path that is given twice counts once.
      parent_mode: The mode of the directories above them, cut by the umask; ``None`` for
          ``0o777``.
      concurrency: How many visits to threads there may be at once; those to one mount are bounded
          by ``policy.workers``, too.
      progress: Called in trio's thread with how many of ``paths`` stand, and how many there are or
          None, at most every 50 ms and once at the end. What it raises ends the call.
      policy: As for `makedirs`; its retries are those of each piece of work in a thread.
      beneath: As for `makedirs`: every path is relative to it, and none leads out.
      atomic: As for `makedirs`, for each tree that is missing: all that is planned in it appears
          with one rename. They appear one after the other, and are made in one thread at a time.
      durable: As for `makedirs`.
      exact_mode: Whether the directories in ``paths`` have precisely ``mode``, whatever the umask.
      owner: As for `makedirs`. Until everything stands, what is made is closed to everybody else
          where a new owner, group, mode or template is asked for.
      group: As for `makedirs`.
      like: As for `makedirs`.
      on_mount: As for `makedirs`: every path has to lie there.

    Returns:
      What was made, relied on and tried again; its ``path`` is empty.

    Raises:
      MkdirError, StepTimeout, MountStalled, EscapeError, ValueError, TypeError: As `makedirs`; the
          first failure ends everything, and everything is undone, as it is when reading ``paths``
          fails.
      NotImplementedError: The platform cannot do it; nothing was made.

    **Cancellation handling**: That of `makedirs`. To undo many directories takes about as long as
    to make them; what is not undone within ``policy.rollback_timeout`` is undone without the call.
    """
    try:
        wanted = demands(atomic, durable, exact_mode, owner, group, like, on_mount)
        order = order_for(
            mode, parent_mode, concurrency, progress, beneath, wanted, exist_ok=exist_ok
        )
        call = ManyCall(paths, order, checked_policy(policy))
    except Exception:
        await trio.lowlevel.checkpoint()  # noqa: ASYNC120 - a cancellation wins
        raise
    return await call.make()


def pending_rollbacks() -> tuple[PendingRollback, ...]:
    """What is still owed by system calls that have not returned, in the whole process.

    Empty once every directory that had to be undone is undone or given up on. Usable from any
    thread.
    """
    return registry.debts.pending()


async def wait_settled() -> None:
    """Wait until `pending_rollbacks` is empty.

    **Cancellation handling**: A checkpoint, always. It may be cancelled at any time, and may
    never return while a mount hangs: put it into a cancel scope.
    """
    registry.workers.pay_all()
    key = object()
    try:
        await _step.until(partial(registry.debts.when_settled, key))
    finally:
        registry.debts.forget_waiter(key)
