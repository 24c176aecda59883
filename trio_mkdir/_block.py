"""What happens inside one rollback nursery, and how it ends: committed, handed on or undone."""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING

import attrs
import trio

from ._call import Call
from ._changes import Changing
from ._errors import RollbackError
from ._events import Kept, Recorder, Report
from ._many import ManyCall
from ._registry import registry
from ._rollback import Rollback
from ._transaction import Transaction
from ._undo_log import positions
from ._visit import Sliced

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from ._changes import Wish
    from ._entries import Holder
    from ._incoming import Paths
    from ._many import Order
    from ._paths import AnyPath, Target
    from ._policy import Policy
    from ._walk import Walk
    from ._workers import Workers


@attrs.frozen(eq=False)
class _Compensation:
    fn: Callable[..., object]
    args: tuple[object, ...]
    position: int
    """Its place among all that the block has to undo."""


class Block:
    """What happens inside one block, and how it ends."""

    def __init__(self, policy: Policy, nursery: trio.Nursery, outer: Block | None) -> None:
        self.policy = policy
        self.nursery = nursery
        self.outer = outer
        self.recorder = Recorder(policy.observers)
        filesystem = policy.filesystem or registry.operating_system
        self.transaction = Transaction(registry, None, filesystem, self.recorder, policy)
        self.family: tuple[Holder, ...] = (self.transaction.holder,)
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

    def adopt(self, call: Call | ManyCall) -> None:
        """``call`` succeeded: what it made is undone with this block."""
        self.check_open()
        call.transaction.move_to(self.transaction)
        self.mounts.update(dict.fromkeys(call.mounts))
        self.record(call)

    def push(self, fn: Callable[..., object], args: tuple[object, ...]) -> None:
        """``fn(*args)`` is to be called if the block does not end well."""
        self.check_open()
        self.compensations.append(_Compensation(fn, args, next(positions)))

    def record(self, call: Call | ManyCall) -> None:
        """``call`` is part of what happened here."""
        names = {path: call.as_given(path) for _, _, path, _ in call.recorder.told}
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
        self.transaction.move_to(outer.transaction)
        outer.mounts.update(self.mounts)
        outer.compensations += self.compensations
        outer.compensations.sort(key=lambda each: each.position)
        outer.absorb(self.recorder, self.given)

    async def roll_back(self) -> list[RollbackError]:
        """Undo everything, the last first; what could not be undone."""
        self._close()
        transaction = self.transaction
        # From here on threads that were stuck undo it, too: not what is older than a compensation
        # that has not been carried out.
        transaction.floor = self.compensations[-1].position if self.compensations else 0
        rollback = Rollback(transaction, self.policy, "")
        errors: list[RollbackError] = []
        try:
            for compensation in reversed(self.compensations):
                transaction.floor = compensation.position
                await self._whatever_comes(rollback.undo, self.mounts)
                error = await self._compensate(compensation, rollback.deadline)
                if error is not None:
                    errors.append(error)
            transaction.floor = 0
            while transaction.undoable():
                await self._whatever_comes(rollback.undo, self.mounts)
                if trio.current_time() >= rollback.deadline:
                    break
            if not self.interruptions:  # otherwise somebody wants to be gone
                await self._whatever_comes(rollback.wait)
        finally:
            transaction.floor = 0
            rollback.leave()
            self._close()
        return [*errors, *self._failed_removals()]  # noqa: ASYNC910

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
        try:
            with trio.CancelScope(shield=True), trio.move_on_at(deadline) as scope:  # noqa: ASYNC912 - it bounds what fn awaits
                result = compensation.fn(*compensation.args)
                if inspect.isawaitable(result):
                    await result
        except Exception as failure:  # noqa: BLE001 - one failing undo stops no other
            return RollbackError.of(compensation.fn, failure)  # noqa: ASYNC910
        except BaseException as interruption:  # noqa: BLE001, ASYNC103 - raised in the end
            self.interruptions.append(interruption)
            return None  # noqa: ASYNC104, ASYNC910
        if scope.cancelled_caught:
            late = trio.TooSlowError(f"not done within {self.policy.rollback_timeout} s")
            return RollbackError.of(compensation.fn, late)  # noqa: ASYNC910
        return None  # noqa: ASYNC910

    def _failed_removals(self) -> Iterator[RollbackError]:
        """Those of the calls that failed or were cancelled inside, too."""
        for kind, _, path, details in self.recorder.told:
            number = details[1] if kind is Kept else None
            if isinstance(number, int):
                given = self.given.get(path, path)
                yield RollbackError.of(given, OSError(number, os.strerror(number), given))


class NurseryCall(Call):
    """A call whose success hands what it made on to a block."""

    def __init__(self, target: Target, block: Block) -> None:
        super().__init__(target, block.policy, block.family)
        self._block = block

    def _succeed(self) -> None:
        self._block.adopt(self)
        self.let_go()

    def _fail(self, failure: BaseException) -> None:
        super()._fail(failure)
        self._block.record(self)


class NurseryChange(NurseryCall):
    """A call that makes nothing, and changes what stands at its path."""

    _changing: Changing | None = None

    def __init__(self, target: Target, block: Block, wish: Wish) -> None:
        self._wish = wish
        super().__init__(target, block)

    def as_given(self, path: AnyPath) -> AnyPath:
        """``path`` as the caller wrote it; it may be what is copied from."""
        return path if self.target.is_elsewhere(path) else super().as_given(path)

    def _everything(self, transaction: Transaction, walk: Walk) -> Sliced:  # noqa: ARG002 - no way to go
        if self._changing is None:
            self._changing = Changing(self.target.path, self._wish, transaction)
        return Sliced(self._changing.run(), transaction.enter)


class NurseryManyCall(ManyCall):
    """The same for many paths."""

    def __init__(self, paths: Paths, order: Order, block: Block) -> None:
        super().__init__(paths, order, block.policy, block.family)
        self._block = block

    def _succeed(self) -> None:
        self._block.adopt(self)

    def _fail(self, failure: BaseException) -> None:
        super()._fail(failure)
        self._block.record(self)
