"""The whole benchmark suite, in one process.

    python benchmarks/run.py                         # writes docs/benchmarks.{md,svg,json}
    python benchmarks/run.py --only single bulk      # some of it, printed only
    python benchmarks/run.py --quick                 # whether it still runs; figures say nothing

What it prints is the page that it writes. README.md beside this file says how it measures.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import trio

import _bulk
import _cancellation
import _dead_mount
import _picture
import _report
import _single
import _syscalls
from _bench import FULL, QUICK, Bench
from _directories import workshop
from _figures import Results
from _loops import open_loops
from _places import open_places

DOCS: Final = Path(__file__).parents[1] / "docs"

SECTIONS: Final[dict[str, Callable[[Bench], Awaitable[None]]]] = {
    "single": _single.measure,
    "bulk": _bulk.measure,
    "dead_mount": _dead_mount.measure,
    "cancellation": _cancellation.measure,
    "syscalls": _syscalls.measure,
}


async def measure(sections: Sequence[str], seed: int, *, quick: bool) -> Bench:
    """Run some sections one after the other."""
    with workshop() as directory, open_places(directory) as places, open_loops(seed) as loops:
        bench = Bench(loops, places, directory, QUICK if quick else FULL, Results())
        for name in sections:
            print(f"{name} ...", file=sys.stderr, flush=True)
            await SECTIONS[name](bench)
        return bench


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write it down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="a few rounds, to see that everything runs")
    add("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS))
    add("--seed", type=int, default=1, help="of the order within each round (default: 1)")
    add(
        "--output",
        type=Path,
        metavar="DIRECTORY",
        help="where to write benchmarks.md, .svg and .json (default: docs/ for a whole run that "
        "is not quick, else nowhere)",
    )
    options = parser.parse_args(arguments)
    # That calls on a dead mount owe something is what they are to do here.
    logging.getLogger("trio_mkdir").setLevel(logging.CRITICAL)
    sections = options.only or list(SECTIONS)
    output: Path | None = options.output
    if output is None and not options.quick and not options.only:
        output = DOCS
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)  # now, and not when all is measured
    bench = trio.run(partial(measure, sections, options.seed, quick=options.quick))
    picture = output is not None and importlib.util.find_spec("matplotlib") is not None
    page = _report.markdown(bench, options.seed, picture=picture)
    print(page, end="")
    if output is not None:
        (output / "benchmarks.md").write_text(page, encoding="utf-8")
        figures = _report.as_json(bench, options.seed)
        (output / "benchmarks.json").write_text(figures, encoding="utf-8")
        if picture:
            _picture.draw(bench.results.raw, output / _report.PICTURE)
        else:
            print("no picture: matplotlib is not installed", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
