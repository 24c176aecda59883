"""The worker threads of each mount: a dead one holds its own and nobody else's."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakKeyDictionary

import attrs
import trio

from ._statistics import MountStatistics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._handshake import Operation
    from ._mounts import Mount

_MANY: Final = 1024
"""How many mounts are remembered before those where nothing goes on are forgotten."""


class Job(Protocol):
    """What a worker is sent to do, as far as this module cares."""

    @property
    def workers(self) -> Workers:
        """Of the mount it goes to."""
        ...

    @property
    def operation(self) -> Operation | None:
        """The system call that it is in."""
        ...

    def do(self) -> Iterator[Operation]:
        """Do it, yielding every system call right before it starts."""
        ...


@attrs.define(eq=False)
class Workers:
    """What is known of the worker threads on one mount, in every `trio.run` of the process."""

    mount: Mount
    stuck: int = 0
    """How many are in a system call that nobody waits for in time any more."""
    debts: tuple[Job, ...] = ()
    """Undoing for which no worker could be had."""
    paying: bool = False
    """Whether a thread is at it."""
    # Each step writes these, and without a lock: whoever looks may be told of two steps at once.
    busy: dict[Job, float] = attrs.field(factory=dict["Job", float])
    """Who is in a system call, and `time.monotonic` when it began, or the slice that it is in."""
    last_answer: float | None = None
    """`time.monotonic` when a step was answered last,"""
    last_errno: int | None = None
    """and the answer that stopped it, if one did."""


_limiters: Final = trio.lowlevel.RunVar[
    "WeakKeyDictionary[Workers, dict[int, trio.CapacityLimiter]]"
]("trio_mkdir._limiters")


def limiter(workers: Workers, total: int) -> trio.CapacityLimiter:
    """This run's limiter for a mount: a `trio.CapacityLimiter` belongs to one `trio.run`."""
    try:
        limiters = _limiters.get()
    except LookupError:
        limiters = WeakKeyDictionary[Workers, dict[int, trio.CapacityLimiter]]()
        _limiters.set(limiters)
    try:
        return limiters[workers][total]
    except KeyError:
        made = trio.CapacityLimiter(total)
        limiters.setdefault(workers, {})[total] = made
        return made


class WorkerTable:
    """`Workers` by mount."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._workers: dict[Mount, Workers] = {}
        self._stuck: dict[Job, float | None] = {}
        """Since when, by `time.monotonic`, nobody waits in time for it; None if it is back."""

    def on(self, mount: Mount) -> Workers:
        """Those of ``mount``."""
        try:
            return self._workers[mount]
        except KeyError:
            with self._lock:
                if len(self._workers) >= _MANY:
                    self._forget_idle()
                return self._workers.setdefault(mount, Workers(mount))

    def _forget_idle(self) -> None:
        self._workers = {
            mount: workers
            for mount, workers in self._workers.items()
            if workers.stuck or workers.debts or workers.busy
        }

    def is_stuck(self, job: Job) -> None:
        """Nobody waits in time any more for the system call that ``job`` is in."""
        with self._lock:
            job.workers.stuck += 1
            self._stuck[job] = time.monotonic()

    def is_back(self, job: Job) -> None:
        """It has returned after all; what ``job`` does now may still be in the way of others."""
        with self._lock:
            job.workers.stuck -= 1
            self._stuck[job] = None

    def is_done(self, job: Job) -> None:
        """It does nothing more."""
        with self._lock:
            self._stuck.pop(job, None)

    def stuck_in(self) -> list[Operation]:
        """The system calls that have not returned in time, on any mount."""
        if not self._stuck:  # no lock: whoever is stuck after this was not when we asked
            return []
        with self._lock:
            jobs = list(self._stuck)
        return [job.operation for job in jobs if job.operation is not None]

    def active(self) -> list[Workers]:
        """Those of every mount on which anything has happened."""
        with self._lock:
            known = list(self._workers.values())
        return [
            workers
            for workers in known
            if workers.last_answer is not None or workers.busy or workers.stuck or workers.debts
        ]

    def statistics(self, workers: Workers, mount: Mount, debts: int) -> MountStatistics:
        """What goes on on ``mount``, where so many ``debts`` are owed."""
        busy = workers.busy.copy()
        with self._lock:
            stuck = workers.stuck
            counted = [
                # From what was counted as stuck at first its thread may have come to another.
                (busy.get(job, since), job.operation)
                for job, since in self._stuck.items()
                if since is not None and job.workers is workers
            ]
        since, operation = min(counted, key=lambda each: each[0], default=(None, None))
        name, path = operation or (None, None)
        return MountStatistics(
            mount,
            time.monotonic(),
            busy=len(busy),
            stuck=stuck,
            stuck_since=since,
            stuck_operation=name,
            stuck_path=path,
            debts=debts,
            last_answer=workers.last_answer,
            last_errno=workers.last_errno,
        )

    def owe(self, workers: Workers, debt: Job) -> bool:
        """No worker could be had for ``debt``; False if no thread can be had either.

        One thread a mount, beside its workers, does what is owed there, one after the other. If it
        cannot be started, the next worker that is done on the mount does it.
        """
        with self._lock:
            workers.debts += (debt,)
        return self.start_paying(workers)

    def start_paying(self, workers: Workers) -> bool:
        """Start that thread, unless it runs already or has nothing to do."""
        with self._lock:
            if workers.paying or not workers.debts:
                return True
            workers.paying = True
        try:
            trio.lowlevel.start_thread_soon(
                partial(self._pay, workers), _ignore, "trio_mkdir debts"
            )
        except RuntimeError:  # no new thread
            workers.paying = False
            return False
        return True

    def pay_all(self) -> None:
        """Start those threads that could not be started when they were asked for."""
        with self._lock:
            owing = [workers for workers in self._workers.values() if workers.debts]
        for workers in owing:
            self.start_paying(workers)

    def _pay(self, workers: Workers) -> None:
        while (debt := self.next_debt(workers, last=True)) is not None:
            for _ in debt.do():
                pass

    def next_debt(self, workers: Workers, *, last: bool = False) -> Job | None:
        """What is owed longest on this mount; ``last`` if whoever asks ends without another."""
        if not workers.debts and not last:  # the common case, and no lock
            return None
        with self._lock:
            debt, workers.debts = next(iter(workers.debts), None), workers.debts[1:]
            if debt is None and last:
                workers.paying = False
            return debt


def _ignore(_: object) -> None:
    """What a thread does with the result of having paid."""
