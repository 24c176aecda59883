"""The points at which a run can be cancelled, and how to come by the same ones again.

A program can only be cancelled between two steps of its tasks. So a point is a moment between
two steps; where trio looks for I/O and deadlines in between, and wakes somebody, there are two,
one before that and one after.
"""

from __future__ import annotations

import importlib
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from types import CodeType, FrameType


class Trigger(trio.abc.Instrument):
    """Cancels a scope at one point, and writes down where everybody was."""

    def __init__(self, point: int, cancel: Callable[[], object]) -> None:
        self._left = point
        self._cancel = cancel
        self._between_batches = False
        self._woken = False
        self.fired = False

    @contextmanager
    def armed(self) -> Generator[None, None, None]:
        """Count the points from here to the end of the block; the first is right here."""
        self._pass()
        trio.lowlevel.add_instrument(self)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(self)

    def _pass(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.fired = True
            self._cancel()

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002
        """Trio has run all tasks that were ready."""
        self._between_batches = True

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002
        """A task has become ready; between two batches that is news from outside."""
        self._woken = self._woken or self._between_batches

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002
        """The first step of a batch is a point of its own if something happened before it."""
        woken = self._woken
        self._between_batches = self._woken = False
        if woken:
            self._pass()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002
        """A task waits now, or is ready again."""
        self._pass()


@contextmanager
def repeatable(seed: int) -> Generator[None, None, None]:
    """Let trio take the tasks that are ready in an order that depends on nothing but ``seed``.

    Trio shuffles them on purpose, and has no public way to ask for the same order again. Here
    is what its own support for hypothesis does; if a later trio has it no more, the points that a
    sweep visits are as many and as good, but not the same each time.
    """
    run: Any = importlib.import_module("trio._core._run")
    random = getattr(run, "_r", None)
    ordered = getattr(run, "_ALLOW_DETERMINISTIC_SCHEDULING", None)
    if random is None or ordered is None:  # pragma: no cover - no such trio yet
        yield
        return
    state = random.getstate()
    run._ALLOW_DETERMINISTIC_SCHEDULING = True  # noqa: SLF001 - there is no public name
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
        run._ALLOW_DETERMINISTIC_SCHEDULING = ordered  # noqa: SLF001


def stacks(root: trio.lowlevel.Task, within: CodeType, old: Iterable[trio.Nursery]) -> str:
    """Where ``root`` is inside the call of ``within``, and where the tasks are that it started.

    Args:
      root: The task that called.
      within: The function in which its stack gets interesting.
      old: Its nurseries from before.

    Returns:
      As a traceback tells it; empty if the call has not begun.
    """
    frames = list(root.iter_await_frames())
    inside = [index for index, (frame, _) in enumerate(frames) if frame.f_code is within]
    if not inside:
        return ""  # it has not begun
    told = [_stack(root, frames[inside[-1] + 1 :])]
    known = set(old)
    nurseries = [nursery for nursery in root.child_nurseries if nursery not in known]
    while nurseries:
        for task in nurseries.pop(0).child_tasks:
            told.append(_stack(task, list(task.iter_await_frames())))
            nurseries += task.child_nurseries
    return "".join(told)


def _stack(task: trio.lowlevel.Task, frames: list[tuple[FrameType, int]]) -> str:
    while len(frames) > 1 and _is_trios(frames[-1][0]):
        frames.pop()  # how trio waits is not the question
    lines = traceback.StackSummary.extract(iter(frames)).format()
    return "".join([f"task {task.name}:\n", *lines])


def _is_trios(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("trio.")
