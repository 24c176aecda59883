"""A dead mount: hundreds of calls hang on it, and a program goes on working on a healthy one.

Spans with and without the calls that hang take turns, so that both see the same machine. What hangs
is thawed after every span: by us, or after half a minute by a process that waits for that.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import attrs

import trio_mkdir
from _bench import Bench, Sizes
from _directories import Unavailable, scratch
from _figures import Figures, Results, Table
from _loops import Call, Loop
from _peers import OURS, PEERS, Peer, Prepare, Task, ours_with, who_may_hang
from _places import HungMount, open_hung_mount, threads_that_hang

HEALTHY: Final = 8
"""Tasks that make directories on the healthy mount, one after the other."""
TICK: Final = 0.005
"""Seconds for which the event loop is asked to sleep, to see how much later it wakes."""
GRACE: Final = 0.25
"""Seconds after the end of a span for which a call that began in it is waited for."""
PATIENCE: Final = 10.0
PEER_PAIRS: Final = 2
AGAIN: Final = 1.0
"""Seconds after which a call is tried again that failed because its mount is dead."""

RAISED: Final = f"{OURS}, stall_after raised"
DEFAULT: Final = f"{OURS}, default stall_after"


@attrs.frozen
class Subject:
    """Somebody whose calls hang, while others of his work."""

    name: str
    peer: Peer
    hanging: Prepare
    """How the calls on the dead mount are made."""
    fails: bool = False
    """Whether those are refused once some of them hang."""


@attrs.frozen
class Span:
    """What was seen on the healthy mount for a while."""

    throughput: float
    """Calls in a second."""
    times: list[float]
    lags: list[float]


@attrs.frozen
class Pair:
    """A span without the calls that hang, and one beside them."""

    alone: Span
    beside: Span
    threads: int
    """Those that hung."""
    memory: int
    """Bytes more than before anything hung."""
    ended: Counter[str]
    """How calls on the dead mount had ended by the end of the span."""


def subjects(bench: Bench) -> list[Subject]:
    """This project in two ways, and the others."""
    # More patient than a span is long, and no mount is ever given up.
    patient = trio_mkdir.Policy(step_timeout=60.0, workers=10_000, stall_after=10_000)
    # The default, but for the time until it takes effect.
    impatient = trio_mkdir.Policy(step_timeout=0.2, retries={})
    return [
        Subject(RAISED, PEERS[OURS], ours_with(patient)),
        Subject(DEFAULT, PEERS[OURS], ours_with(impatient), fails=True),
        *(
            Subject(peer.name, peer, peer.prepare)
            for peer in who_may_hang(all_of_them=bench.sizes.all_peers)
        ),
    ]


async def look_on(loop: Loop, peer: Peer, directory: str, seconds: float) -> Span:
    """Let some tasks make directories for so long, and one watch the loop."""
    numbers = itertools.count()
    times: list[float] = []
    lags: list[float] = []
    with scratch(directory) as root:
        until = time.perf_counter() + seconds

        async def work() -> None:
            while (began := time.perf_counter()) < until:
                top = os.path.join(root, str(next(numbers)))
                paths = (top, os.path.join(top, "a"), os.path.join(top, "a", "b"))
                call = peer.prepare(Task(paths[-1], paths))
                await call()
                ended = time.perf_counter()
                if ended <= until:
                    times.append(ended - began)

        async def watch() -> None:
            while (began := time.perf_counter()) < until:
                await loop.sleep(TICK)
                lags.append(time.perf_counter() - began - TICK)

        # Who is starved never ends by himself.
        await loop.together([*[work] * HEALTHY, watch], seconds + GRACE)
    return Span(len(times) / seconds, times, lags)


async def look_beside(
    subject: Subject, loop: Loop, dead: HungMount, healthy: str, sizes: Sizes
) -> tuple[Span, int, int, Counter[str]]:
    """The same while calls hang; also the threads that do, and the bytes that it took."""
    numbers = itertools.count()
    ended: Counter[str] = Counter()
    over = False
    enough = trio_mkdir.Policy().stall_after

    with scratch(dead.path) as root:

        async def hang() -> None:
            path = os.path.join(root, str(next(numbers)))
            try:
                await subject.hanging(Task(path, (path,)))()
            except trio_mkdir.MkdirError as error:
                ended[type(error).__name__] += 1

        async def hang_again() -> None:
            while not over:
                await hang()
                await loop.sleep(AGAIN)

        async def look() -> tuple[Span, int, int]:
            await _settled(loop, sizes.calm)
            more = threads_that_hang(), _memory() - before
            return await look_on(loop, subject.peer, healthy, sizes.span), *more

        async def main() -> None:
            nonlocal over
            try:
                if subject.fails:
                    await _until(loop, lambda: ended.total() >= enough)
                    others = [hang_again] * (sizes.stuck - enough)

                    async def look_and_end() -> None:
                        nonlocal over
                        seen.append(await look())
                        over = True

                    await loop.beside(others, look_and_end)
                else:
                    seen.append(await look())
            finally:
                at_the_end.update(ended)
                dead.thaw()

        seen: list[tuple[Span, int, int]] = []
        at_the_end: Counter[str] = Counter()
        before = _memory()
        dead.freeze()
        calls: list[Call] = [hang] * (enough if subject.fails else sizes.stuck)
        try:
            await loop.beside(calls, main)
        finally:
            dead.thaw()
        await _until(loop, lambda: not trio_mkdir.pending_rollbacks())
        await _settled(loop, sizes.calm)
    return *seen[0], at_the_end


async def look_at_pair(
    subject: Subject, loop: Loop, dead: HungMount, healthy: str, bench: Bench, *, alone_first: bool
) -> Pair:
    """Both spans, right after each other."""
    alone = partial(look_on, loop, subject.peer, healthy, bench.sizes.span)
    first = await alone() if alone_first else None
    beside, threads, bytes_, ended = await look_beside(subject, loop, dead, healthy, bench.sizes)
    return Pair(first or await alone(), beside, threads, bytes_, ended)


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _memory() -> int:
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _settled(loop: Loop, calm: float) -> None:
    """Wait until no thread has come or gone for a while: all that can hang does."""
    deadline = time.monotonic() + PATIENCE
    last, since = _threads(), time.monotonic()
    while time.monotonic() < min(since + calm, deadline):
        await loop.sleep(0.01)
        if (now := _threads()) != last:
            last, since = now, time.monotonic()


async def _until(loop: Loop, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} does not hold after {PATIENCE} s")
        await loop.sleep(0.01)


async def measure(bench: Bench) -> None:
    """Everybody in turn, and round by round."""
    stuck = bench.sizes.stuck
    place = bench.places[0]
    bars = {
        name: f"healthy throughput beside {stuck} calls that hang ({said}), to without"
        for name, said in ((RAISED, "stall_after raised"), (DEFAULT, "default policy"))
    }
    pairs: dict[str, list[Pair]] = {}
    try:
        if place.path is None:
            raise Unavailable(place.why)
        with open_hung_mount(bench.workshop) as dead:
            for turn in range(bench.sizes.windows):
                order = [each for each in subjects(bench) if each.name in bars or turn < PEER_PAIRS]
                bench.loops.shuffler.shuffle(order)
                for subject in order:
                    pair = await _take_pair(subject, dead, place.path, bench, turn)
                    pairs.setdefault(subject.name, []).append(pair)
    except Unavailable as reason:
        for name in bars.values():
            bench.results.bar(name, ">=", 0.95, None, why=str(reason))
        return
    rows = [_row(subject.name, pairs[subject.name], bench.results) for subject in subjects(bench)]
    for name, said in bars.items():
        bench.results.bar(said, ">=", 0.95, kept_throughput(pairs[name]))
    bench.results.tables.append(
        Table(
            f"A healthy mount beside {stuck} calls that hang on a dead one",
            (
                "by",
                "throughput, to without",
                "calls/s without, beside",
                "p99 without, beside, ms",
                "loop lag p99 without, beside, ms",
                "loop lag max beside, ms",
                "threads that hang",
                "MiB more",
                "how calls on the dead mount had ended",
            ),
            tuple(rows),
            f"{HEALTHY} tasks make paths of three on a tmpfs for {bench.sizes.span:g} s at a time;"
            " the ratio is the median over pairs of spans. A throughput of 0 is starvation: every"
            " thread that the calls may have hangs, and nothing came back within the span. Default"
            f" stall_after: {trio_mkdir.Policy().stall_after} calls hang, the others are refused"
            f" and try again every {AGAIN:g} s.",
        )
    )


async def _take_pair(
    subject: Subject, dead: HungMount, healthy: os.PathLike[str], bench: Bench, turn: int
) -> Pair:
    loops = bench.loops
    loop = subject.peer.loop(loops)
    coroutine = look_at_pair(
        subject, loop, dead, os.fspath(healthy), bench, alone_first=turn % 2 == 0
    )
    if subject.peer.on == "asyncio":
        return loops.run_asyncio(coroutine)
    return await coroutine


def kept_throughput(pairs: Sequence[Pair]) -> float:
    """How much of it is left beside the calls that hang."""
    return statistics.median(pair.beside.throughput / pair.alone.throughput for pair in pairs)


def _row(name: str, pairs: Sequence[Pair], results: Results) -> tuple[str, ...]:
    def figures(of: Callable[[Pair], list[float]]) -> Figures | None:
        every = [value for pair in pairs for value in of(pair)]
        return Figures.of(every) if every else None

    def p99(found: Figures | None) -> str:
        return "-" if found is None else f"{found.p99 * 1e3:.2f}"

    alone, beside = figures(lambda pair: pair.alone.times), figures(lambda pair: pair.beside.times)
    lag_alone, lag = figures(lambda pair: pair.alone.lags), figures(lambda pair: pair.beside.lags)
    lag_max = max(max(pair.beside.lags) for pair in pairs)
    without = statistics.median(pair.alone.throughput for pair in pairs)
    left = statistics.median(pair.beside.throughput for pair in pairs)
    threads = max(pair.threads for pair in pairs)
    mib = max(pair.memory for pair in pairs) / 2**20
    ended = sum((pair.ended for pair in pairs), Counter[str]())
    results.record(
        "dead mount",
        peer=name,
        kept=kept_throughput(pairs),
        throughput_alone=without,
        throughput_beside=left,
        alone=alone,
        beside=beside,
        lag_alone=lag_alone,
        lag_beside=lag,
        lag_max_beside=lag_max,
        threads_hanging=threads,
        mib_more=round(mib, 2),
        ended=dict(ended),
    )
    return (
        name,
        f"{kept_throughput(pairs):.2f}",
        f"{without:.0f}, {left:.0f}",
        f"{p99(alone)}, {p99(beside)}",
        f"{p99(lag_alone)}, {p99(lag)}",
        f"{lag_max * 1e3:.2f}",
        str(threads),
        f"{mib:.1f}",
        ", ".join(f"{count} {kind}" for kind, count in sorted(ended.items())) or "none had",
    )
