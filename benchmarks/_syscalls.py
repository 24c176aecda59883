"""What a call costs beside time: system calls, counted by strace, and memory, by tracemalloc."""

from __future__ import annotations

import gc
import shutil
import statistics
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from _bench import Bench
from _directories import Unavailable, scratch
from _figures import Table
from _loops import open_loops
from _peers import OURS, PEERS
from _single import SCENARIOS, Scenario

# Those that look at files or change them. A question mark lets strace go on without one that
# this kind of machine does not have.
TRACED: Final = ",".join(
    f"?{name}"
    for name in """
        mkdir mkdirat rmdir unlinkat chmod fchmodat umask
        stat lstat fstat newfstatat statx access faccessat faccessat2 readlink readlinkat
        statfs open openat openat2 pread64 getdents64 getcwd poll ppoll
    """.split()
)
COUNTED: Final = 200


async def make_many(scenario: Scenario, contender: str, root: str, runs: int) -> None:
    """Make ``runs`` tasks and leave them: run under strace, where nothing else is to count."""
    base = scenario.prepare(root)
    with open_loops(0) as loops:
        for number in range(runs):
            await PEERS[contender].timed(loops, scenario.task(base, number))


def needs_strace() -> None:
    """It has to be here."""
    if shutil.which("strace") is None:
        raise Unavailable("needs the program strace")


def count_syscalls(
    scenario: Scenario, contender: str, directory: Path, counted: int = COUNTED
) -> dict[str, float]:
    """How often one call makes each system call.

    Starting and ending the process makes many; they are the same for one run and for more, so the
    difference of the two is what the additional runs made.
    """
    few = _traced(scenario, contender, directory, runs=1)
    many = _traced(scenario, contender, directory, runs=1 + counted)
    counts = {name: (many[name] - few.get(name, 0)) / counted for name in many}
    return {name: count for name, count in sorted(counts.items()) if round(count, 2)}


def _traced(scenario: Scenario, contender: str, directory: Path, *, runs: int) -> dict[str, int]:
    """The counts of strace for one process that makes ``runs`` tasks."""
    number = SCENARIOS.index(scenario)
    with scratch(directory) as root, tempfile.NamedTemporaryFile("r") as counts:
        done = subprocess.run(  # noqa: S603 - this very file
            [
                *("strace", "-f", "-c", "-U", "calls,name", "-e", f"trace={TRACED}"),
                *("-o", counts.name, sys.executable, __file__),
                *(str(number), contender, root, str(runs)),
            ],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise Unavailable(f"strace: {done.stderr.strip().splitlines()[-1:]}")
        rows = [line.split() for line in counts]
    return {name: int(calls) for calls, name in rows if calls.isdigit() and name != "total"}


def table(
    contenders: Sequence[str],
    scenarios: Sequence[Scenario],
    directory: Path,
    counted: int = COUNTED,
) -> Table:
    """A row for each scenario and contender; the filesystem makes no difference to them."""
    needs_strace()
    rows = []
    for scenario in scenarios:
        for contender in contenders:
            counts = count_syscalls(scenario, contender, directory, counted)
            cell = ", ".join(f"{count:.3g} {name}" for name, count in counts.items())
            rows.append((scenario.name, contender, f"{sum(counts.values()):.3g}", cell))
    return Table(
        "System calls of one call",
        ("path", "by", "all", "each"),
        tuple(rows),
        "Counted by `strace -f -c`: those that touch files. What a thread costs is in the times.",
    )


# Memory


async def memory_of(
    scenario: Scenario, contender: str, bench: Bench, root: str
) -> tuple[float, float]:
    """The bytes that one call has in use at most, and those that stay when its result is gone."""
    base = scenario.prepare(root)
    peaks: list[int] = []
    peer, counted = PEERS[contender], bench.sizes.counted
    for number in range(5):  # threads, limiters and the like are made once
        await peer.timed(bench.loops, scenario.task(base, number))
    gc.collect()
    tracemalloc.start()
    try:
        began = tracemalloc.get_traced_memory()[0]
        for number in range(5, 5 + counted):
            task = scenario.task(base, number)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            await peer.timed(bench.loops, task)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
            del task
        gc.collect()
        stayed = tracemalloc.get_traced_memory()[0] - began - sys.getsizeof(peaks)
    finally:
        tracemalloc.stop()
    return statistics.median(peaks), stayed / counted


async def _measure_memory(bench: Bench) -> None:
    place = bench.places[0].path or Path(tempfile.gettempdir())
    rows = []
    for scenario in SCENARIOS:
        for contender in PEERS:
            with scratch(place) as root:
                peak, stayed = await memory_of(scenario, contender, bench, root)
            bench.results.record(
                "memory", scenario=scenario.name, peer=contender, peak=peak, stayed=round(stayed, 1)
            )
            rows.append((scenario.name, contender, f"{peak / 1024:.1f}", f"{stayed:.0f}"))
    bench.results.tables.append(
        Table(
            "Memory of one call",
            ("path", "by", "peak, KiB", "bytes that stay"),
            tuple(rows),
            "By `tracemalloc`: the median of what is allocated during a call at most, and what is"
            " left for each when all of them are over. On trio, 64 KiB of the peak are what trio"
            " itself reads its wake-ups into.",
        )
    )


async def measure(bench: Bench) -> None:
    """Both."""
    place = bench.places[0].path or Path(tempfile.gettempdir())
    few = bench.quick
    try:
        counts = table(
            (OURS,) if few else tuple(PEERS),
            SCENARIOS[:1] if few else SCENARIOS,
            place,
            bench.sizes.counted,
        )
    except Unavailable as reason:
        counts = Table("System calls of one call", ("path",), ((f"skipped: {reason}",),))
    bench.results.tables.append(counts)
    for scenario, contender, count, each in counts.rows if len(counts.head) == 4 else ():
        bench.results.record(
            "system calls", scenario=scenario, peer=contender, count=float(count), each=each
        )
    await _measure_memory(bench)


if __name__ == "__main__":
    _number, _contender, _root, _runs = sys.argv[1:]
    trio.run(make_many, SCENARIOS[int(_number)], _contender, _root, int(_runs))
