"""The public functions: check the arguments, make a call, run it."""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from . import _step
from ._beneath import root_at
from ._call import Call
from ._causes import root_cause
from ._errors import mkdir_error
from ._paths import target
from ._policy import Policy
from ._registry import registry

if TYPE_CHECKING:
    from ._events import PendingRollback, Report
    from ._paths import Target

    StrOrBytesPath: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

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

    Returns:
      What was made, relied on and tried again.

    Raises:
      MkdirError: The kernel's answer, as the subclass of `OSError` that belongs to its errno.
          Everything made is undone; what is not is in its ``report`` and its notes.
      StepTimeout: A system call has not returned in time, ``policy.retries`` included.
      MountStalled: Too many earlier system calls on this mount have not returned yet.
      EscapeError: ``path`` is absolute or leads out of ``beneath``.
      NotImplementedError: The platform cannot keep it ``beneath`` anything; nothing was made.
      ValueError, TypeError: An argument is out of range or of the wrong type; nothing was made.

    **Cancellation handling**: A checkpoint, always, also when it fails. When cancelled, it undoes
    what it made, shielded, for up to ``policy.rollback_timeout`` seconds, and lets `trio.Cancelled`
    through. A system call that is stuck in the kernel is left to its thread, which undoes its
    result when it returns; see `pending_rollbacks` and `wait_settled`.
    """
    try:
        asked = asked_for(path, mode, parent_mode, beneath, exist_ok=exist_ok, parents=True)
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
) -> Report:
    """Make one directory, as `os.mkdir` does: its parent has to be there.

    Arguments, errors and **cancellation handling** are those of `makedirs`.
    """
    try:
        asked = asked_for(path, mode, None, beneath, exist_ok=exist_ok, parents=False)
        call = Call(asked, checked_policy(policy))
    except Exception:
        await trio.lowlevel.checkpoint()  # noqa: ASYNC120 - a cancellation wins
        raise
    return await call.make()


def asked_for(
    path: StrOrBytesPath,
    mode: int,
    parent_mode: int | None,
    beneath: StrOrBytesPath | int | None,
    *,
    exist_ok: bool,
    parents: bool,
) -> Target:
    """The checked arguments of a call."""
    try:
        root = None
        if beneath is not None:
            root = root_at(beneath, in_bytes=isinstance(os.fspath(path), bytes))
        return target(
            path,
            mode=mode,
            parent_mode=parent_mode,
            exist_ok=exist_ok,
            parents=parents,
            root=root,
        )
    except OSError as error:  # the working directory is gone, or the path leads out at first sight
        number = error.errno or errno.ENOENT
        raise mkdir_error(number, error.filename, root_cause(number), None) from None


def checked_policy(policy: object) -> Policy:
    """``policy``, if it is one."""
    if not isinstance(policy, Policy):
        raise TypeError(f"policy must be a Policy, not {policy!r}")
    return policy


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
