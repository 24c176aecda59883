"""The rollback nursery: what is made inside stays provisional until the block ends well."""

from __future__ import annotations

import inspect
import os
import random
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, cast

import attrs
import trio

from ._call import Call
from ._errors import RollbackError
from ._events import Kept, Recorder, Report
from ._makedirs import DEFAULT_POLICY, asked_for, checked_policy
from ._registry import registry
from ._rollback import Rollback
from ._transaction import Transaction

if sys.version_info < (3, 11):  # pragma: no cover - trio depends on it there
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from ._makedirs import StrOrBytesPath
    from ._paths import AnyPath, Target
    from ._policy import Policy
    from ._workers import Workers

_random: Final = random.Random()  # noqa: S311 - jitter, not a secret
_current: Final[ContextVar[_Block | None]] = ContextVar("_current", default=None)


@attrs.frozen(eq=False)
class _Compensation:
    fn: Callable[..., object]
    args: tuple[object, ...]
    position: int
    """The epoch that began with it."""


class _Block:
    """What happens inside one block, and how it ends."""

    def __init__(self, policy: Policy, nursery: trio.Nursery, outer: _Block | None) -> None:
        self.policy = policy
        self.nursery = nursery
        self.outer = outer
        self.recorder = Recorder(policy.observers)
        self.transaction = Transaction(
            registry.tree,
            policy.filesystem or registry.operating_system,
            policy,
            self.recorder,
            _random,
            registry.workers,
            None,
            tuple,
        )
        self.family: tuple[Transaction, ...] = (self.transaction,)
        if outer is not None:
            self.family += outer.family
        self.compensations: list[_Compensation] = []
        self.mounts: dict[Workers, None] = {}
        self.given: dict[AnyPath, AnyPath] = {}
        self.interruptions: list[BaseException] = []
        """What tried to end the rollback before it was done."""
        self.closed = False
        self._began = trio.current_time()
        self._elapsed: float | None = None

    def check_open(self) -> None:
        """Raise RuntimeError once the block has ended."""
        if self.closed:
            raise RuntimeError("this rollback nursery is closed: its block has ended")

    def report(self) -> Report:
        """What happened so far."""
        elapsed = trio.current_time() - self._began if self._elapsed is None else self._elapsed
        return self.recorder.report("", lambda path: self.given.get(path, path), elapsed)

    def adopt(self, call: Call) -> None:
        """``call`` succeeded: what it made is undone with this block."""
        self.check_open()
        call.transaction.move_to(self.transaction)
        self.mounts[call.workers] = None
        self.record(call)

    def record(self, call: Call) -> None:
        """``call`` is part of what happened here."""
        names = {path: call.target.as_given(path) for _, _, path, _ in call.recorder.told}
        self.absorb(call.recorder, names)

    def absorb(self, recorder: Recorder, given: dict[AnyPath, AnyPath]) -> None:
        self.given.update(given)
        self.recorder.told += recorder.told
        self.recorder.steps += recorder.steps

    def _close(self) -> None:
        self.closed = True
        self._elapsed = trio.current_time() - self._began

    def succeed(self) -> None:
        """Commit, or hand everything on to the block around this one."""
        self._close()
        outer = self.outer
        if outer is None or outer.closed:
            self.transaction.commit()
            return
        base = outer.transaction.epoch
        self.transaction.move_to(outer.transaction)
        outer.mounts.update(self.mounts)
        outer.compensations += [
            attrs.evolve(each, position=base + each.position) for each in self.compensations
        ]
        outer.absorb(self.recorder, self.given)

    async def roll_back(self) -> list[RollbackError]:
        """Undo everything, the last first; what could not be undone."""
        self._close()
        before = len(self.recorder.told)
        transaction = self.transaction
        # From here on threads that were stuck undo it, too: not what is older than a compensation
        # that has not been carried out.
        transaction.floor = transaction.epoch
        rollback = Rollback(transaction, self.policy, "", _random)
        errors: list[RollbackError] = []
        try:
            for compensation in reversed(self.compensations):
                transaction.floor = compensation.position
                await self._whatever_comes(rollback.undo, self.mounts)
                error = await self._compensate(compensation, rollback.deadline)
                if error is not None:
                    errors.append(error)
            transaction.floor = 0
            while transaction.undoable:
                await self._whatever_comes(rollback.undo, self.mounts)
                if trio.current_time() >= rollback.deadline:
                    break
            if transaction.ambiguous:
                await self._whatever_comes(self._tell_ambiguous, rollback)
            if not self.interruptions:  # otherwise somebody wants to be gone
                await self._whatever_comes(rollback.wait)
        finally:
            transaction.floor = 0
            rollback.leave()
            self._close()
        return [*errors, *self._failed_removals(before)]  # noqa: ASYNC910

    async def _tell_ambiguous(self, rollback: Rollback) -> None:
        await rollback.undo(list(self.mounts)[:1], afterwards=self.transaction.tell_ambiguous)

    async def _whatever_comes(  # noqa: ASYNC910
        self, async_fn: Callable[..., Awaitable[object]], *args: object
    ) -> None:
        """A KeyboardInterrupt goes through every shield; it must not stop what is to be undone."""
        try:
            await async_fn(*args)
        except BaseException as interruption:  # noqa: BLE001, ASYNC103 - raised in the end
            self.interruptions.append(interruption)

    async def _compensate(
        self, compensation: _Compensation, deadline: float
    ) -> RollbackError | None:
        with trio.CancelScope(shield=True), trio.move_on_at(deadline) as scope:  # noqa: ASYNC912 - it bounds what fn awaits
            try:
                result = compensation.fn(*compensation.args)
                if inspect.isawaitable(result):
                    await result
            except (KeyboardInterrupt, SystemExit) as interruption:
                self.interruptions.append(interruption)
            except Exception as failure:  # noqa: BLE001 - one failing undo stops no other
                return RollbackError.of(compensation.fn, failure)  # noqa: ASYNC910
        if scope.cancelled_caught:
            late = trio.TooSlowError(f"not done within {self.policy.rollback_timeout} s")
            return RollbackError.of(compensation.fn, late)  # noqa: ASYNC910
        return None  # noqa: ASYNC910

    def _failed_removals(self, before: int) -> Iterator[RollbackError]:
        for kind, _, path, details in self.recorder.told[before:]:
            number = details[1] if kind is Kept else None
            if isinstance(number, int):
                given = self.given.get(path, path)
                yield RollbackError.of(given, OSError(number, os.strerror(number), given))


class _NurseryCall(Call):
    """A call whose success hands what it made on to a block."""

    __slots__ = ("_block",)
    stays_provisional = True

    def __init__(self, target: Target, block: _Block) -> None:
        super().__init__(target, block.policy, block.family)
        self._block = block

    def _succeed(self) -> None:
        self._block.adopt(self)

    def _fail(self, failure: BaseException) -> None:
        super()._fail(failure)
        self._block.record(self)


class RollbackNursery:
    """A trio nursery whose directories and compensations are undone unless its block ends well.

    Made by `open_rollback_nursery`. ``start_soon``, ``start`` and ``cancel_scope`` are those of
    `trio.Nursery`.
    """

    def __init__(self, block: object, nursery: trio.Nursery) -> None:
        # `object`: what a block is, is nobody's business who only reads the types.
        self._block = cast("_Block", block)
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
    ) -> Report:
        """`trio_mkdir.makedirs`, provisional until the block ends well.

        Raises RuntimeError once the block has ended. Errors and **cancellation handling** are
        those of `trio_mkdir.makedirs`.
        """
        return await self._make(path, mode, parent_mode, exist_ok=exist_ok, parents=True)

    async def mkdir(
        self, path: StrOrBytesPath, /, mode: int = 0o777, *, exist_ok: bool = False
    ) -> Report:
        """`trio_mkdir.mkdir`, provisional until the block ends well; see `makedirs`."""
        return await self._make(path, mode, None, exist_ok=exist_ok, parents=False)

    async def _make(
        self,
        path: StrOrBytesPath,
        mode: int,
        parent_mode: int | None,
        *,
        exist_ok: bool,
        parents: bool,
    ) -> Report:
        try:
            self._block.check_open()
            asked = asked_for(path, mode, parent_mode, exist_ok=exist_ok, parents=parents)
            call = _NurseryCall(asked, self._block)
        except Exception:
            await trio.lowlevel.checkpoint()  # noqa: ASYNC120 - a cancellation wins
            raise
        return await call.run()

    def push_undo(self, fn: Callable[..., object], /, *args: object) -> None:
        """Have ``fn(*args)`` called, or awaited if it is async, if the block does not end well.

        Directories and compensations are undone in one order, the last first. ``fn`` runs shielded
        from cancellation and within the policy's ``rollback_timeout``; what it raises comes out as
        a `RollbackError` and stops nothing. Not a checkpoint.
        """
        if not callable(fn):
            raise TypeError(f"fn must be callable, not {fn!r}")
        block = self._block
        block.check_open()
        block.transaction.epoch += 1
        block.compensations.append(_Compensation(fn, args, block.transaction.epoch))


def _enclosing() -> _Block | None:
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
        self._block = _Block(self._policy, nursery, _enclosing())
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
            raise self._block.interruptions[0] from outcome
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
    inside the block of another rollback nursery, a success is provisional in that one.

    Raises:
      BaseExceptionGroup: As every trio nursery does, the original tracebacks included. What could
          not be undone is beside the first cause, as `RollbackError`.

    **Cancellation handling**: Leaving is a checkpoint, entering is not, as with
    `trio.open_nursery`. When cancelled, it undoes everything, shielded, for up to
    ``policy.rollback_timeout`` seconds, and lets `trio.Cancelled` through.
    """
    return _Manager(checked_policy(policy))
