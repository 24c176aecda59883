"""Cancelled: how long until the call is back, on a healthy mount and on one that hangs.

On the mount that hangs it is also counted what is there when everything has ended: a directory that
comes after its call was cancelled is one that nobody wants.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import attrs
import trio

import trio_mkdir
from _bench import Bench
from _directories import Unavailable, scratch
from _figures import Figures, Table
from _loops import Call
from _peers import OURS, Prepare, Task, abandoned_thread, ours_with, who_may_hang
from _places import HungMount, open_hung_mount
from _single import NEW

DEEP: Final = NEW[-1]
BOUND: Final = 0.5
"""Seconds after which a call counts as one that does not come back while the mount hangs."""
DEFAULT_BOUND: Final = 5.0
PATIENCE: Final = 10.0
AT_ONCE: Final = f"{OURS}, rollback_timeout=0"
DEFAULT: Final = f"{OURS}, rollback_timeout=1, the default"
ABANDONED: Final = "trio.to_thread, abandon_on_cancel"


@attrs.frozen
class Subject:
    """Somebody whose calls are cancelled."""

    name: str
    prepare: Prepare
    on_asyncio: bool = False
    bound: float = BOUND
    one_by_one: bool = False
    """Whether each call is cancelled after the one before is back; otherwise all at once."""


def subjects(bench: Bench) -> list[Subject]:
    """This project in two ways, and everybody else."""

    def policy(rollback_timeout: float) -> trio_mkdir.Policy:
        return trio_mkdir.Policy(
            rollback_timeout=rollback_timeout,
            step_timeout=60.0,
            workers=10_000,
            stall_after=10_000,  # each call that has hung counts until the mount answers
        )

    return [
        Subject(AT_ONCE, ours_with(policy(0)), one_by_one=True),
        Subject(DEFAULT, ours_with(policy(1)), bound=DEFAULT_BOUND),
        Subject(ABANDONED, abandoned_thread),
        *(
            Subject(peer.name, peer.prepare, on_asyncio=peer.on == "asyncio")
            for peer in who_may_hang(all_of_them=bench.sizes.all_peers)
        ),
    ]


@attrs.define(eq=False)
class Cancelled:
    """A call that somebody cancels."""

    call: Call
    began: float | None = None
    ended: float | None = None

    async def run(self) -> None:
        """Run it; cancelled or not, it may end."""
        try:
            await self.call()
        finally:
            self.ended = time.perf_counter()

    @property
    def took(self) -> float | None:
        """Seconds from the cancel to the return."""
        if self.began is None or self.ended is None:
            return None
        return max(0.0, self.ended - self.began)


# On a healthy mount


async def cancel_early(call: Call) -> float:
    """Cancel a call as soon as it has sent its thread away; the seconds until it is back."""
    cancelled = Cancelled(call)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancelled.run)
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        cancelled.began = time.perf_counter()
        nursery.cancel_scope.cancel()
    return cancelled.took or 0.0


async def measure_healthy(bench: Bench, root: str) -> dict[str, Figures]:
    """On a tmpfs, in the middle of eight directories. Only trio's own, which can be compared."""
    names = [subject for subject in subjects(bench) if not subject.on_asyncio]
    times: dict[str, list[float]] = {subject.name: [] for subject in names}
    number = 0
    for _ in range(bench.sizes.cancelled):
        bench.loops.shuffler.shuffle(names)
        for subject in names:
            number += 1
            call = subject.prepare(DEEP.task(root, number))
            times[subject.name].append(await cancel_early(call))
    await trio_mkdir.wait_settled()
    await _wait(
        _all_hang(bench.sizes.calm), PATIENCE
    )  # threads that nobody waits for are done, too
    return {name: Figures.of(taken) for name, taken in times.items()}


# On a mount that hangs


async def _wait(condition: Callable[[], bool], seconds: float) -> None:
    """Return as soon as it holds, or the time is up."""
    deadline = time.monotonic() + seconds
    # What it waits for sets no event.
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110
        await trio.sleep(0.001)


def _all_hang(calm: float) -> Callable[[], bool]:
    """Whether no thread has come for a while."""
    last, since = 0, time.monotonic()

    def condition() -> bool:
        nonlocal last, since
        if (now := len(os.listdir("/proc/self/task"))) != last:
            last, since = now, time.monotonic()
        return time.monotonic() > since + calm

    return condition


async def cancel_hung(
    subject: Subject, calls: Sequence[Cancelled], mount: HungMount, calm: float
) -> None:
    """Cancel ``calls``, which all hang, and thaw the mount when they are back, or their time up."""
    mount.freeze()
    try:
        async with trio.open_nursery() as nursery:
            scopes = [trio.CancelScope() for _ in calls]

            async def run(call: Cancelled, scope: trio.CancelScope) -> None:
                with scope:
                    await call.run()

            for call, scope in zip(calls, scopes, strict=True):
                nursery.start_soon(run, call, scope)
            await _wait(_all_hang(calm), PATIENCE)
            for call, scope in zip(calls, scopes, strict=True):
                call.began = time.perf_counter()
                scope.cancel()
                if subject.one_by_one:
                    await _wait(partial(_is_back, call), subject.bound)
            await _wait(lambda: all(map(_is_back, calls)), subject.bound)
            mount.thaw()
    finally:
        mount.thaw()


async def cancel_hung_on_asyncio(
    subject: Subject, calls: Sequence[Cancelled], mount: HungMount, calm: float
) -> None:
    """The same for tasks of asyncio."""
    mount.freeze()
    try:
        tasks = [asyncio.ensure_future(call.run()) for call in calls]
        hang = _all_hang(calm)
        while not hang():  # noqa: ASYNC110 - the kernel sets no event
            await asyncio.sleep(0.001)
        for call, task in zip(calls, tasks, strict=True):
            call.began = time.perf_counter()
            task.cancel()
        await asyncio.wait(tasks, timeout=subject.bound)
    finally:
        mount.thaw()
    await asyncio.gather(*tasks, return_exceptions=True)


def _is_back(call: Cancelled) -> bool:
    return call.ended is not None


@attrs.define
class Hung:
    """What came of calls that were cancelled while they hung."""

    times: list[float] = attrs.field(factory=list)
    """Seconds; the bound for one that was late."""
    calls: int = 0
    late: int = 0
    """Not back while the mount hung."""
    left: int = 0
    """Directories that are there after everything has ended."""


async def hang_and_cancel(bench: Bench, subject: Subject, mount: HungMount, seen: Hung) -> None:
    """Once: start some, let them hang, cancel them, thaw, and count what is left."""
    with scratch(mount.path) as root:
        paths = [os.path.join(root, str(number)) for number in range(bench.sizes.hung)]
        calls = [Cancelled(subject.prepare(Task(path, (path,)))) for path in paths]
        if subject.on_asyncio:
            bench.loops.run_asyncio(cancel_hung_on_asyncio(subject, calls, mount, bench.sizes.calm))
        else:
            await cancel_hung(subject, calls, mount, bench.sizes.calm)
        await trio_mkdir.wait_settled()
        await _wait(
            _all_hang(bench.sizes.calm), PATIENCE
        )  # threads that nobody waits for are done, too
        seen.left += len(os.listdir(root))
    for call in calls:
        seen.calls += 1
        took = subject.bound if call.took is None else call.took
        seen.late += took >= subject.bound
        seen.times.append(min(took, subject.bound))


async def measure(bench: Bench) -> None:
    """Both mounts."""
    results = bench.results
    bar = "cancel to return on a mount that hangs, rollback_timeout=0, p99"
    healthy: dict[str, Figures] = {}
    place = bench.places[0]
    if place.path is not None:
        with scratch(place.path) as root:
            healthy = await measure_healthy(bench, root)
    hung: dict[str, Hung] = {subject.name: Hung() for subject in subjects(bench)}
    why = ""
    try:
        with open_hung_mount(bench.workshop) as mount:
            for turn in range(bench.sizes.times):
                order = [each for each in subjects(bench) if turn < 2 or each.name == AT_ONCE]
                bench.loops.shuffler.shuffle(order)
                for subject in order:
                    await hang_and_cancel(bench, subject, mount, hung[subject.name])
    except Unavailable as reason:
        why = str(reason)
    rows = []
    for name, seen in hung.items():
        calm = healthy.get(name)
        found = Figures.of(seen.times) if seen.times else None
        results.record(
            "cancellation",
            peer=name,
            healthy=calm,
            hung=found,
            calls=seen.calls,
            late=seen.late,
            left=seen.left,
        )
        rows.append(
            (
                name,
                _milliseconds(calm),
                f"skipped: {why}" if why else _milliseconds(found, late=bool(seen.late)),
                "-" if why else f"{seen.late} of {seen.calls}",
                "-" if why else f"{seen.left} of {seen.calls}",
            )
        )
    at_once = hung[AT_ONCE].times
    measured = Figures.of(at_once).p99 * 1e3 if at_once else None
    results.bar(bar, "<=", 5.0, measured, unit=" ms", why=why)
    results.tables.append(
        Table(
            "From the cancel to the return",
            (
                "by",
                "healthy, median / p99, ms",
                "hung, median / p99, ms",
                f"not back within {BOUND:g} s",
                "directories that came late and stayed",
            ),
            tuple(rows),
            "Healthy: cancelled in the middle of eight directories on a tmpfs. Hung: every call is"
            " in a `mkdir(2)` that does not return, or waits for a thread; the mount is thawed"
            " when all are back or their time is up. The default waits for its own undoing for"
            f" 1 s, and is given {DEFAULT_BOUND:g} s.",
        )
    )


def _milliseconds(figures: Figures | None, *, late: bool = False) -> str:
    """Median and 99th percentile; what has reached the bound took longer, who knows how long."""
    if figures is None:
        return "-"
    both = figures.median, figures.p99
    return " / ".join(
        f"over {BOUND * 1e3:.0f}" if late and seconds >= BOUND else f"{seconds * 1e3:.2f}"
        for seconds in both
    )
