"""Running something again and again, cancelled or failing at another place each time."""

from __future__ import annotations

import errno as errnos
import inspect
import sys
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import attrs
import trio

from trio_mkdir import RollbackError, pending_rollbacks, wait_settled

from ._faulty import FaultyFilesystem
from ._operations import OperationRecord
from ._outcome import Outcome, SweepFailed, SweepSummary
from ._points import Trigger, repeatable, stacks

if sys.version_info < (3, 11):  # pragma: no cover - trio depends on it there
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from ._script import Rule

StateT = TypeVar("StateT")


@overload
async def sweep_cancellations(
    async_fn: Callable[[], Awaitable[object]],
    *,
    check: Callable[[Outcome[None]], object],
    setup: None = None,
    expected: type[Exception] | tuple[type[Exception], ...] = (),
    settle_timeout: float = 10.0,
    seed: int = 0,
) -> SweepSummary: ...


@overload
async def sweep_cancellations(
    async_fn: Callable[[StateT], Awaitable[object]],
    *,
    check: Callable[[Outcome[StateT]], object],
    setup: Callable[[], Awaitable[StateT]],
    expected: type[Exception] | tuple[type[Exception], ...] = (),
    settle_timeout: float = 10.0,
    seed: int = 0,
) -> SweepSummary: ...


@overload
async def sweep_cancellations(
    async_fn: Callable[[StateT], Awaitable[object]],
    *,
    check: Callable[[Outcome[StateT]], object],
    setup: Callable[[], StateT],
    expected: type[Exception] | tuple[type[Exception], ...] = (),
    settle_timeout: float = 10.0,
    seed: int = 0,
) -> SweepSummary: ...


async def sweep_cancellations(
    async_fn: Callable[..., Awaitable[object]],
    *,
    check: Callable[[Outcome[Any]], object],
    setup: Callable[[], object] | None = None,
    expected: type[Exception] | tuple[type[Exception], ...] = (),
    settle_timeout: float = 10.0,
    seed: int = 0,
) -> SweepSummary:
    """Run something again and again, and cancel it at another point each time.

    The first run is cancelled before its first step, the next one a step of any task later, and so
    on until a run ends before its point comes; that one is not cancelled. So every
    moment is tried at which a cancellation can arrive: at each checkpoint of the function, of its
    child tasks, and of whatever it waits for.

    All runs happen in the current `trio.run`. Each is settled before it is checked: nothing is
    owed any more (`trio_mkdir.wait_settled`).

    Args:
      async_fn: What to run: ``await async_fn()``, or ``await async_fn(state)`` with a ``setup``. It
          has to find the same situation each time.
      check: Called, or awaited if it is async, with the `Outcome` of each run; it raises if
          something is wrong.
      setup: Called, or awaited if it is async, before each run; gives its state.
      expected: Exceptions that may come out of ``async_fn`` beside `trio.Cancelled`, also in
          groups.
      settle_timeout: Seconds by trio's clock to wait until nothing is owed.
      seed: Another one lets trio run tasks that are ready at the same time in another order.

    Returns:
      How many runs it took.

    Raises:
      SweepFailed: The check raised an exception, ``async_fn`` raised one that was not expected, or
          a run did not settle.

    **Cancellation handling**: A checkpoint, always. When cancelled from outside, the run in
    progress is, and `trio.Cancelled` goes through.
    """
    sweep = _Sweep(async_fn, check, setup, expected, settle_timeout, seed)
    point = 1
    while await sweep.is_cancelled_at(point):
        point += 1
    return sweep.summary


@overload
async def sweep_faults(
    async_fn: Callable[[], Awaitable[object]],
    filesystem: FaultyFilesystem,
    *,
    errno: int,
    check: Callable[[Outcome[None]], object],
    setup: None = None,
    operations: Collection[str] | None = None,
    lost_reply: bool = False,
    faults: int = 2,
    expected: type[Exception] | tuple[type[Exception], ...] = (OSError, RollbackError),
    settle_timeout: float = 10.0,
    seed: int = 0,
) -> SweepSummary: ...


@overload
async def sweep_faults(
    async_fn: Callable[[StateT], Awaitable[object]],
    filesystem: FaultyFilesystem | Callable[[StateT], FaultyFilesystem],
    *,
    errno: int,
    check: Callable[[Outcome[StateT]], object],
    setup: Callable[[], Awaitable[StateT]],
    operations: Collection[str] | None = None,
    lost_reply: bool = False,
    faults: int = 2,
    expected: type[Exception] | tuple[type[Exception], ...] = (OSError, RollbackError),
    settle_timeout: float = 10.0,
    seed: int = 0,
) -> SweepSummary: ...


@overload
async def sweep_faults(
    async_fn: Callable[[StateT], Awaitable[object]],
    filesystem: FaultyFilesystem | Callable[[StateT], FaultyFilesystem],
    *,
    errno: int,
    check: Callable[[Outcome[StateT]], object],
    setup: Callable[[], StateT],
    operations: Collection[str] | None = None,
    lost_reply: bool = False,
    faults: int = 2,
    expected: type[Exception] | tuple[type[Exception], ...] = (OSError, RollbackError),
    settle_timeout: float = 10.0,
    seed: int = 0,
) -> SweepSummary: ...


async def sweep_faults(
    async_fn: Callable[..., Awaitable[object]],
    filesystem: FaultyFilesystem | Callable[[Any], FaultyFilesystem],
    *,
    errno: int,
    check: Callable[[Outcome[Any]], object],
    setup: Callable[[], object] | None = None,
    operations: Collection[str] | None = None,
    lost_reply: bool = False,
    faults: int = 2,
    expected: type[Exception] | tuple[type[Exception], ...] = (OSError, RollbackError),
    settle_timeout: float = 10.0,
    seed: int = 0,
) -> SweepSummary:
    """Run something again and again, and let another operation fail each time.

    First the first operation of a run is answered ``errno``, then the second of the next run, and
    so on until a run has fewer; nothing fails in that one. With two ``faults``, for each of these
    a later operation fails in addition, one after the other: so the rollback of the first fault
    meets the second at each of its own operations.

    Args:
      async_fn: What to run: ``await async_fn()``, or ``await async_fn(state)`` with a ``setup``. It
          has to find the same situation each time.
      filesystem: What it runs against, or a function that gives it for a state.
      errno: What is answered.
      check: Called, or awaited if it is async, with the `Outcome` of each run; it raises if
          something is wrong.
      setup: Called, or awaited if it is async, before each run; gives its state.
      operations: The names of the operations that count; None for all.
      lost_reply: Whether the operation is carried out all the same.
      faults: How many operations fail in one run, at most. The number of runs grows as the number
          of operations to this power.
      expected: Exceptions that may come out of ``async_fn``, also in groups.
      settle_timeout: Seconds by trio's clock to wait until nothing is owed.
      seed: Another one lets trio run tasks that are ready at the same time in another order.

    Returns:
      How many runs it took.

    Raises:
      SweepFailed: The check raised an exception, ``async_fn`` raised one that was not expected, or
          a run did not settle.
      ValueError: ``faults`` is less than 1.

    **Cancellation handling**: A checkpoint, always. When cancelled from outside, the run in
    progress is, and `trio.Cancelled` goes through.
    """
    if faults < 1:
        await trio.lowlevel.checkpoint()
        raise ValueError(f"faults must be 1 or more, not {faults!r}")
    sweep = _Sweep(async_fn, check, setup, expected, settle_timeout, seed)

    def fault(state: object, nth: int) -> _Fault:
        on = filesystem if isinstance(filesystem, FaultyFilesystem) else filesystem(state)
        rule = on.fail_nth(nth, errno, operations=operations, lost_reply=lost_reply)
        return _Fault(on, rule, errno)

    async def every_fault_after(earlier: tuple[int, ...]) -> None:
        nth = earlier[-1] + 1 if earlier else 1
        while await sweep.fails_at((*earlier, nth), fault):
            if len(earlier) + 1 < faults:
                await every_fault_after((*earlier, nth))
            nth += 1

    await every_fault_after(())
    return sweep.summary


@attrs.frozen
class _Fault:
    """One operation of a run that is to fail."""

    filesystem: FaultyFilesystem
    rule: Rule
    errno: int

    @property
    def records(self) -> list[OperationRecord]:
        """The operation, once it has failed."""
        return [OperationRecord(name, path, self.errno) for name, path in self.rule.hits]


class _Sweep:
    """What the runs of one sweep have in common."""

    def __init__(
        self,
        async_fn: Callable[..., Awaitable[object]],
        check: Callable[[Outcome[Any]], object],
        setup: Callable[[], object] | None,
        expected: type[Exception] | tuple[type[Exception], ...],
        settle_timeout: float,
        seed: int,
    ) -> None:
        self._async_fn = async_fn
        self._check = check
        self._setup = setup
        self._expected = expected
        self._settle_timeout = settle_timeout
        self._seed = seed
        self.summary = SweepSummary()

    async def is_cancelled_at(self, point: int) -> bool:
        """Do one run; whether its point came, or it ended before."""
        outcome = await self._run(await self._state(), point)
        await self._settle(outcome)
        await self._judge(outcome)
        self.summary = self.summary.and_one(outcome)
        return outcome.point is not None

    async def fails_at(
        self, numbers: tuple[int, ...], fault: Callable[[object, int], _Fault]
    ) -> bool:
        """Do one run; whether the last of its operations that were to fail came."""
        state = await self._state()
        faults = [fault(state, number) for number in numbers]
        try:
            outcome = await self._run(state)
            await self._settle(outcome)  # what is undone late can fail, too
        finally:
            for each in faults:
                each.filesystem.forget(each.rule)
        records = [record for each in faults for record in each.records]
        outcome = attrs.evolve(outcome, faults=tuple(records))
        await self._judge(outcome)
        if len(records) == len(numbers) or not records:
            self.summary = self.summary.and_one(outcome)
        # Else it was once more the run in which the last one was not yet to fail.
        return len(records) == len(numbers)

    async def _state(self) -> object:
        return await _result(None if self._setup is None else self._setup())

    async def _run(self, state: object, point: int = 0) -> Outcome[object]:
        """Run it once, cancelled at ``point`` if that is one."""
        task = trio.lowlevel.current_task()
        nurseries = tuple(task.child_nurseries)
        scope = trio.CancelScope()
        told = ""

        def cancel() -> None:
            nonlocal told
            told = stacks(task, _Sweep._call.__code__, nurseries)
            scope.cancel()

        trigger = Trigger(point, cancel)
        value: object = None
        error: Exception | None = None
        with repeatable(self._seed):
            try:
                with scope, trigger.armed():
                    value = await self._call(state)
            except Exception as failure:  # noqa: BLE001 - judged below
                error = failure
        return Outcome(  # noqa: ASYNC910 - to settle it is one
            state,
            point=point if trigger.fired else None,
            cancelled=scope.cancelled_caught,
            value=value,
            error=error,
            stack=told,
        )

    async def _call(self, state: object) -> object:
        return await (self._async_fn() if self._setup is None else self._async_fn(state))

    async def _settle(self, outcome: Outcome[object]) -> None:
        with trio.move_on_after(self._settle_timeout) as scope:
            await wait_settled()
        if scope.cancelled_caught:
            owed = "\n".join(map(repr, pending_rollbacks()))
            what = f"after {self._settle_timeout:g} s it still owes\n{owed}\n"
            raise self._failed(outcome, what) from outcome.error

    async def _judge(self, outcome: Outcome[object]) -> None:
        error = outcome.error
        if error is not None and not _within(error, self._expected):
            raise self._failed(outcome, f"{type(error).__name__} came out unexpectedly") from error
        try:
            await _result(self._check(outcome))
        except (trio.Cancelled, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as failure:  # pytest's own are no Exceptions
            raise self._failed(outcome, "the check failed") from failure

    def _failed(self, outcome: Outcome[object], what: str) -> SweepFailed:
        if outcome.point is not None:
            which = f"was cancelled at point {outcome.point}"
            where = f", where it was in\n{outcome.stack}"
            which += where if outcome.stack else ", before it began"
        elif outcome.faults:
            which = "had " + ", then ".join(
                f"{record.operation} {record.path!r} answered {_name(record.errno)}"
                for record in outcome.faults
            )
        else:
            which = "was left undisturbed"
        error = SweepFailed(f"{what} in the run that {which}")
        error.outcome = outcome
        error.summary = self.summary
        return error


async def _result(value: object) -> object:
    """``value``, awaited if it can be."""
    if inspect.isawaitable(value):
        return await value
    await trio.lowlevel.checkpoint()
    return value


def _within(error: BaseException, kinds: type[Exception] | tuple[type[Exception], ...]) -> bool:
    """Whether ``error``, or in a group everything, is of these kinds."""
    if isinstance(error, kinds) or not isinstance(error, BaseExceptionGroup):
        return isinstance(error, kinds)
    group = cast("BaseExceptionGroup[BaseException]", error)
    return all(_within(each, kinds) for each in group.exceptions)


def _name(number: int | None) -> str:
    return errnos.errorcode.get(number or 0, str(number))
