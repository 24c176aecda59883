"""The rollback nursery: what is made inside stays provisional until the block ends well."""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, cast

import trio

from ._arguments import asked_for, checked_owner, checked_policy, demands, order_for
from ._block import Block, NurseryCall, NurseryChange, NurseryManyCall
from ._changes import Copy, Mode
from ._makedirs import DEFAULT_POLICY
from ._paths import checked_mode, full_path

if sys.version_info < (3, 11):  # pragma: no cover - trio depends on it there
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from ._changes import Wish
    from ._errors import RollbackError
    from ._events import Report
    from ._incoming import Paths
    from ._many import Progress
    from ._paths import StrOrBytesPath, Target
    from ._policy import Policy

_current: Final[ContextVar[Block | None]] = ContextVar("_current", default=None)


class RollbackNursery:
    """A trio nursery whose directories and compensations are undone unless its block ends well.

    Made by `open_rollback_nursery`. ``start_soon``, ``start`` and ``cancel_scope`` are those of
    `trio.Nursery`.
    """

    def __init__(self, block: object, nursery: trio.Nursery) -> None:
        # `object`: what a block is, is nobody's business who only reads the types.
        self._block = cast("Block", block)
        self._nursery = nursery

    @property
    def cancel_scope(self) -> trio.CancelScope:
        """The scope around the block and its tasks; cancelling it undoes everything."""
        return self._nursery.cancel_scope

    @property
    def child_tasks(self) -> frozenset[trio.lowlevel.Task]:
        """The tasks that run in it."""
        return self._nursery.child_tasks

    @property
    def report(self) -> Report:
        """What was made, tried again, undone and left so far; complete once the block has ended.

        Its ``path`` is empty, as there are many.
        """
        return self._block.report()

    def start_soon(
        self, async_fn: Callable[..., Awaitable[object]], *args: object, name: object = None
    ) -> None:
        """`trio.Nursery.start_soon`."""
        self._nursery.start_soon(async_fn, *args, name=name)

    async def start(
        self, async_fn: Callable[..., Awaitable[object]], *args: object, name: object = None
    ) -> object:
        """`trio.Nursery.start`."""
        return await self._nursery.start(async_fn, *args, name=name)

    async def makedirs(
        self,
        path: StrOrBytesPath,
        /,
        mode: int = 0o777,
        exist_ok: bool = False,
        *,
        parent_mode: int | None = None,
        beneath: StrOrBytesPath | int | None = None,
        atomic: bool = False,
        durable: bool = False,
        exact_mode: bool = False,
        owner: int | str | None = None,
        group: int | str | None = None,
        like: StrOrBytesPath | None = None,
        on_mount: StrOrBytesPath | None = None,
    ) -> Report:
        """`trio_mkdir.makedirs`, provisional until the block ends well.

        Raises RuntimeError once the block has ended. Errors and **cancellation handling** are
        those of `trio_mkdir.makedirs`.
        """
        return await self._make(
            lambda: asked_for(
                path,
                mode,
                parent_mode,
                beneath,
                demands(atomic, durable, exact_mode, owner, group, like, on_mount),
                exist_ok=exist_ok,
                parents=True,
            )
        )

    async def mkdir(
        self,
        path: StrOrBytesPath,
        /,
        mode: int = 0o777,
        *,
        exist_ok: bool = False,
        beneath: StrOrBytesPath | int | None = None,
        atomic: bool = False,
        durable: bool = False,
        exact_mode: bool = False,
        owner: int | str | None = None,
        group: int | str | None = None,
        like: StrOrBytesPath | None = None,
        on_mount: StrOrBytesPath | None = None,
    ) -> Report:
        """`trio_mkdir.mkdir`, provisional until the block ends well; see `makedirs`."""
        return await self._make(
            lambda: asked_for(
                path,
                mode,
                None,
                beneath,
                demands(atomic, durable, exact_mode, owner, group, like, on_mount),
                exist_ok=exist_ok,
                parents=False,
            )
        )

    async def makedirs_many(
        self,
        paths: Paths,
        /,
        mode: int = 0o777,
        *,
        exist_ok: bool = True,
        parent_mode: int | None = None,
        concurrency: int = 32,
        progress: Progress | None = None,
        beneath: StrOrBytesPath | int | None = None,
        atomic: bool = False,
        durable: bool = False,
        exact_mode: bool = False,
        owner: int | str | None = None,
        group: int | str | None = None,
        like: StrOrBytesPath | None = None,
        on_mount: StrOrBytesPath | None = None,
    ) -> Report:
        """`trio_mkdir.makedirs_many`, provisional until the block ends well; see `makedirs`."""

        def begin() -> NurseryManyCall:
            wanted = demands(atomic, durable, exact_mode, owner, group, like, on_mount)
            order = order_for(
                mode, parent_mode, concurrency, progress, beneath, wanted, exist_ok=exist_ok
            )
            return NurseryManyCall(paths, order, self._block)

        return await self._carry_out(begin)

    async def _make(self, asked: Callable[[], Target]) -> Report:
        return await self._carry_out(lambda: NurseryCall(asked(), self._block))

    async def _carry_out(self, begin: Callable[[], NurseryCall | NurseryManyCall]) -> Report:
        try:
            self._block.check_open()
            call = begin()
        except Exception:
            await trio.lowlevel.checkpoint()  # noqa: ASYNC120 - a cancellation wins
            raise
        return await call.make()

    async def chmod(
        self, path: StrOrBytesPath, mode: int, *, beneath: StrOrBytesPath | int | None = None
    ) -> Report:
        """`os.chmod` of a directory, changed back if the block does not end well.

        It gets precisely ``mode``, all twelve bits of it. What it had before is put back together
        with everything else that the block undoes, in one order, the last first.

        Raises:
          MkdirError: The kernel's answer, as for `makedirs`; also EPERM where the kernel would drop
              a set-group-ID bit in silence. It is as it was before.
          StepTimeout, MountStalled, EscapeError: As `makedirs` does.
          NotImplementedError: The platform cannot change an open directory.
          RuntimeError: The block has ended.

        **Cancellation handling** is that of `trio_mkdir.makedirs`: a checkpoint, always, and when
        cancelled, it puts back what was before. A change that is stuck in the kernel is changed
        back by its own thread when it returns; see `pending_rollbacks` and `wait_settled`.
        """
        return await self._change(path, beneath, lambda: Mode(checked_mode("mode", mode)))

    async def chown(
        self,
        path: StrOrBytesPath,
        owner: int | str | None = None,
        group: int | str | None = None,
        *,
        beneath: StrOrBytesPath | int | None = None,
    ) -> Report:
        """`shutil.chown` of a directory, changed back if the block does not end well.

        Names are looked up in a worker thread. Raises LookupError for one that is not known, and
        ValueError if there is neither ``owner`` nor ``group``; other errors and **cancellation
        handling** are those of `chmod`.
        """
        return await self._change(path, beneath, lambda: checked_owner(owner, group))

    async def copy_metadata(
        self,
        source: StrOrBytesPath,
        destination: StrOrBytesPath,
        *,
        beneath: StrOrBytesPath | int | None = None,
    ) -> Report:
        """Give one directory what another has, changed back if the block does not end well.

        That is its owner, group, mode, ACLs and extended attributes; ``destination`` keeps those
        attributes that ``source`` has not, except ACLs. ``beneath`` is about ``destination``.
        Errors and **cancellation handling** are those of `chmod`.
        """
        return await self._change(destination, beneath, lambda: Copy(full_path("source", source)))

    async def _change(
        self,
        path: StrOrBytesPath,
        beneath: StrOrBytesPath | int | None,
        wish: Callable[[], Wish],
    ) -> Report:
        def begin() -> NurseryChange:
            asked = asked_for(path, 0, None, beneath, None, exist_ok=True, parents=False)
            return NurseryChange(asked, self._block, wish())

        return await self._carry_out(begin)

    def push_undo(self, fn: Callable[..., object], /, *args: object) -> None:
        """Have ``fn(*args)`` called, or awaited if it is async, if the block does not end well.

        Directories and compensations are undone in one order, the last first. ``fn`` runs shielded
        from cancellation and within the policy's ``rollback_timeout``; what it raises comes out as
        a `RollbackError` and stops nothing. Not a checkpoint.
        """
        if not callable(fn):
            raise TypeError(f"fn must be callable, not {fn!r}")
        self._block.push(fn, args)


def _enclosing() -> Block | None:
    """The block around this one: of this task, or of one that waits for this task in a nursery.

    A task inherits its context from whoever starts it; but one that was started from inside a
    block into a nursery around it does not belong to that block, nor does another `trio.run`.
    """
    block, task = _current.get(), trio.lowlevel.current_task()
    if block is None:
        return None
    opener = block.nursery.parent_task
    place: trio.Nursery | None = None
    while task is not opener:
        place = task.parent_nursery
        if place is None:
            return None
        task = place.parent_task
    open_nurseries = opener.child_nurseries
    if block.nursery not in open_nurseries:
        return None
    if place is not None and open_nurseries.index(place) < open_nurseries.index(block.nursery):
        return None
    return block


class _Manager:
    """What `open_rollback_nursery` returns.

    Protected from KeyboardInterrupt, as trio's own nursery manager is: the block's outcome and
    what is done about it belong together.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> RollbackNursery:
        self._manager = trio.open_nursery()
        nursery = await self._manager.__aenter__()
        self._scope = nursery.cancel_scope
        self._block = Block(self._policy, nursery, _enclosing())
        self._token = _current.set(self._block)
        return RollbackNursery(self._block, nursery)

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        _current.reset(self._token)
        outcome = failure
        try:
            if await self._manager.__aexit__(kind, failure, traceback):  # noqa: ASYNC102 - the nursery's own exit
                outcome = None  # the nursery's own cancel scope has caught it
        except BaseException as grouped:  # noqa: BLE001, ASYNC103 - raised below
            outcome = grouped
        if outcome is None and not self._scope.cancel_called:
            try:
                await trio.lowlevel.checkpoint()  # noqa: ASYNC102 - the last chance to cancel it
            except BaseException as late:  # noqa: BLE001, ASYNC103 - raised below
                outcome = late
            else:
                self._block.succeed()
                return None
        errors = await self._block.roll_back()  # noqa: ASYNC102 - shielded and bounded inside
        if self._block.interruptions:
            interruption = self._block.interruptions[0]
            raise (_beside(interruption, errors) if errors else interruption) from outcome
        if errors:
            raise _beside(outcome, errors)
        if outcome is None:
            return True
        if outcome is failure:
            return False
        raise outcome


def _beside(failure: BaseException | None, errors: list[RollbackError]) -> BaseException:
    """The failures of undoing beside the first cause, in one group."""
    if failure is None:
        return BaseExceptionGroup("the rollback failed", errors)
    if not isinstance(failure, BaseExceptionGroup):
        return BaseExceptionGroup("the block failed, and so did its rollback", [failure, *errors])
    group = cast("BaseExceptionGroup[BaseException]", failure)
    both = group.derive([*group.exceptions, *errors])
    return both.with_traceback(group.__traceback__)


def open_rollback_nursery(
    *, policy: Policy = DEFAULT_POLICY
) -> AbstractAsyncContextManager[RollbackNursery]:
    """Open a nursery in which directories stay provisional until the block ends well.

    ::

        async with trio_mkdir.open_rollback_nursery() as nursery:
            await nursery.makedirs("site/css")
            nursery.start_soon(nursery.makedirs, "site/js")
            nursery.push_undo(unregister, "site")

    On any error or cancellation, also of ``nursery.cancel_scope``, the tasks inside are cancelled
    and waited for, as in every trio nursery; then everything is undone, the last first. Opened
    inside the block of another rollback nursery, a success is provisional in that one, where it
    keeps its place in the order.

    Raises:
      BaseExceptionGroup: As every trio nursery does, the original tracebacks included. What could
          not be undone is beside the first cause, as `RollbackError`.

    **Cancellation handling**: Leaving is a checkpoint, entering is not, as with
    `trio.open_nursery`. When cancelled, it undoes everything, shielded, for up to
    ``policy.rollback_timeout`` seconds, and lets `trio.Cancelled` through.
    """
    return _Manager(checked_policy(policy))
