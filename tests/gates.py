"""Calls on the real filesystem that a test stops in a system call, cancels there and lets go on.

A `Stage` is one directory and the policy of the calls in it. What a test waits for are the gates
at which threads stop and the events that calls tell, so every interleaving happens each time.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import doubles
import trio
from doubles import PATIENCE, Scripted, refuse
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mkdir import Event, Policy, Report, makedirs, pending_rollbacks, wait_settled
from trio_mkdir._registry import registry

LONG = 60.0
"""Seconds of a timeout that comes only where a test has its clock jump: no real wait is so long."""


async def time_out(
    clock: MockClock, arrived: Callable[[], Awaitable[object]], times: int = 1
) -> None:
    """Have a timeout of `LONG` seconds pass, once a thread is where it is to be found then."""
    await arrived()
    for _ in range(times):
        clock.jump(LONG)
        await wait_all_tasks_blocked()


def as_usual(do: Callable[[], Any]) -> Any:
    """Just the work."""
    return do()


class Gate(doubles.Gate):
    """Keeps a thread in a system call until it is opened: before its work, or after it."""

    def __init__(self, answer: int | None = None, *, after: bool = False) -> None:
        super().__init__(answer)
        self._after = after

    def __call__(self, do: Callable[[], Any]) -> Any:
        if not self._after:
            return super().__call__(do)
        try:
            return do()
        finally:
            super().__call__(lambda: None)

    async def entered(self) -> None:
        """Wait until a thread is there."""
        await trio.to_thread.run_sync(self.wait_entered, abandon_on_cancel=True)


class Attempt:
    """A call as a task that can be cancelled and whose outcome is kept."""

    def __init__(self, nursery: trio.Nursery, fn: Callable[[], Awaitable[object]]) -> None:
        self.outcome = ""
        self._fn = fn
        self._scope = trio.CancelScope()
        self._done = trio.Event()
        nursery.start_soon(self._run)

    async def _run(self) -> None:
        with self._scope:
            try:
                await self._fn()
                self.outcome = "success"
            except OSError:
                self.outcome = "failure"
        self.outcome = self.outcome or "cancelled"
        self._done.set()

    def cancel(self) -> None:
        self._scope.cancel()

    async def done(self) -> str:
        """Wait for the end; how it was."""
        with trio.fail_after(PATIENCE):
            await self._done.wait()
        return self.outcome


class Stage(Scripted):
    """The real filesystem below one directory, with a script; paths are relative to it."""

    turn = None

    def __init__(self, root: Path) -> None:
        super().__init__(registry.operating_system)
        self.root = root
        self.told: list[Event] = []
        """What the calls under `policy` told, in order."""
        self._news = threading.Condition()
        self._gates: list[Gate] = []

    @classmethod
    @contextlib.contextmanager
    def on(cls, root: Path) -> Iterator[Stage]:
        """A stage that lets everybody go when its test is over, however it ended."""
        stage = cls(root)
        try:
            yield stage
        finally:
            for gate in stage._gates:
                gate.open()

    def at(self, path: str) -> str:
        return str(self.root / path)

    def tree(self) -> list[str]:
        """The directories that stand, symbolic links left out."""
        return sorted(
            os.path.relpath(os.path.join(above, name), self.root)
            for above, names, _ in os.walk(self.root)
            for name in names
            if not os.path.islink(os.path.join(above, name))
        )

    # Before

    def stop(
        self,
        name: str,
        path: str,
        answer: int | None = None,
        *,
        skip: int = 0,
        after: bool = False,
    ) -> Gate:
        """A gate in the next call of ``name`` on ``path`` but ``skip``.

        A walk tries the leaf first: of two missing levels, the lower is made in the second attempt.
        """
        gate = Gate(answer, after=after)
        self._gates.append(gate)
        self.script(name, self.at(path), *[as_usual] * skip, gate)
        return gate

    def refuse(self, name: str, path: str, *numbers: int) -> None:
        """Have the next calls of ``name`` on ``path`` answered with errors."""
        self.script(name, self.at(path), *map(refuse, numbers))

    def policy(self, **options: Any) -> Policy:
        """Calls under it wait for as long as a test does, unless it says otherwise."""
        options = {"step_timeout": math.inf, "rollback_timeout": PATIENCE, **options}
        return Policy(filesystem=self, observers=[self._listen], **options)

    # Meanwhile

    def call(
        self, nursery: trio.Nursery, path: str, policy: Policy | None = None, **options: Any
    ) -> Attempt:
        """Start making ``path``."""
        return Attempt(nursery, partial(self.make, path, policy, **options))

    async def make(self, path: str, policy: Policy | None = None, **options: Any) -> Report:
        options = {"exist_ok": True, "policy": policy or self.policy(), **options}
        return await makedirs(self.at(path), **options)

    def _listen(self, event: Event) -> None:
        with self._news:
            self.told.append(event)
            self._news.notify_all()

    def tells(self, kind: type[Event]) -> list[str]:
        """The paths of the events of one kind, in order."""
        told = [os.fsdecode(event.path) for event in self.told if type(event) is kind]
        return [os.path.relpath(path, str(self.root)) for path in told]

    def wait_told(self, kind: type[Event], path: str) -> None:
        """Wait for an event, in a thread of its own."""
        with self._news:
            assert self._news.wait_for(lambda: path in self.tells(kind), PATIENCE), "nobody told"

    async def hears(self, kind: type[Event], path: str) -> None:
        """Wait for an event."""
        await trio.to_thread.run_sync(self.wait_told, kind, path, abandon_on_cancel=True)

    # Afterwards

    async def settled(self) -> list[str]:
        """What stands once nothing is owed and no call is known any more."""
        with trio.fail_after(PATIENCE):
            await wait_settled()
        assert pending_rollbacks() == ()
        assert registry.tree.statistics == (0, 0)
        return self.tree()
