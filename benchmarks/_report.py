"""What a run has found, as a page in Markdown and as raw figures in JSON."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from typing import Final

import trio

import trio_mkdir
from _bench import Bench
from _figures import MISS, PASS, SKIPPED, Bar, Results
from _peers import NOT_HERE

PICTURE: Final = "benchmarks.svg"

_HOW: Final = (
    "Everything is measured in one process, in turns whose order is shuffled anew in every round,"
    " so that whatever else the machine does falls on all alike. Only the awaited call is timed."
    " Times of two runs or two machines say little beside each other; ratios within one run do."
    " See [how it is done](../benchmarks/README.md)."
)


def conditions(bench: Bench, seed: int) -> dict[str, object]:
    """What the figures were made with."""
    return {
        "quick": bench.quick,
        "seed": seed,
        "python": platform.python_version(),
        "trio": trio.__version__,
        "trio_mkdir": trio_mkdir.__version__,
        "kernel": platform.release(),
        "machine": platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
    }


def bars(results: Results) -> str:
    """What has to be reached, in a table, and how often it is."""
    lines = [
        "| what | bound | measured | share of the bound | |",
        "|---|---:|---:|---:|---|",
        *(_bar(bar) for bar in results.bars),
    ]
    counts = Counter(bar.verdict for bar in results.bars)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in (PASS, MISS, SKIPPED))
    return "\n".join([*lines, "", f"{told}."])


def _bar(bar: Bar) -> str:
    measured, share, verdict = "-", "-", bar.verdict
    if bar.measured is not None and bar.ratio is not None:
        measured, share = f"{bar.measured:.3g}{bar.unit}", f"{bar.ratio:.2f}"
    else:
        verdict += f": {bar.why}"
    sign = "≤" if bar.sense == "<=" else "≥"
    return f"| {bar.name} | {sign} {bar.bound:g}{bar.unit} | {measured} | {share} | {verdict} |"


def markdown(bench: Bench, seed: int, *, picture: bool) -> str:
    """The whole page."""
    told = ", ".join(f"{name} {value}" for name, value in conditions(bench, seed).items())
    parts = ["# Benchmarks", _HOW, f"This run: {told}."]
    if bench.quick:
        parts.append("**A quick run: its figures say nothing.**")
    if NOT_HERE:
        parts.append(f"Not installed, and so not measured: {', '.join(NOT_HERE)}.")
    if picture:
        parts.append(f"![The figures below as a picture]({PICTURE})")
    parts += ["## What has to be reached", bars(bench.results)]
    for table in bench.results.tables:
        parts += [f"## {table.title}", *([table.words] if table.words else []), table.markdown()]
    return "\n\n".join(parts) + "\n"


def as_json(bench: Bench, seed: int) -> str:
    """Medians, 99th percentiles and counts, in seconds; a line for each record."""
    results = bench.results
    held = [
        {
            "name": bar.name,
            "sense": bar.sense,
            "bound": bar.bound,
            "unit": bar.unit.strip(),
            "measured": _short(bar.measured),
            "verdict": bar.verdict,
            "why": bar.why if bar.measured is None else "",
        }
        for bar in results.bars
    ]
    sections = {"bars": held, **results.raw}
    lines = [f' "conditions": {json.dumps(conditions(bench, seed))}']
    for name, records in sections.items():
        inside = ",\n".join(f"  {json.dumps(_short(record))}" for record in records)
        lines.append(f" {json.dumps(name)}: [\n{inside}\n ]")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _short(value: object) -> object:
    """No more digits than were measured."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _short(inside) for name, inside in value.items()}
    return value
