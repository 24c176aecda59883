"""The benchmarks run and say what they are there to say. Their figures prove nothing here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import pytest
from filesystems.mounts import mount_table
from filesystems.needs import needs_program, needs_root

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"

PATHS = ["new, depth 1", "new, depth 3", "new, depth 8", "one of 8 missing", "existing"]


def run(program: str, *arguments: str, directory: Path) -> str:
    """Run a benchmark to its good end, and return what it prints.

    It makes its images and mount points in a new directory in ``directory``, and leaves none.
    """
    own = directory / "own"
    own.mkdir()
    done = subprocess.run(  # noqa: S603 - our own benchmarks
        [sys.executable, str(BENCHMARKS / program), *arguments],
        env={**os.environ, "TMPDIR": str(own)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [mount for mount in mount_table() if own in mount.path.parents] == []
    assert list(own.iterdir()) == []
    return done.stdout


@attrs.frozen
class Quick:
    """What a quick run of everything has printed and written."""

    page: str
    written: str
    figures: dict[str, Any]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Quick:
    """One run for all tests here: it takes a while."""
    directory = tmp_path_factory.mktemp("benchmarks")
    page = run("run.py", "--quick", "--output", str(directory), directory=directory)
    written = (directory / "benchmarks.md").read_text(encoding="utf-8")
    figures = json.loads((directory / "benchmarks.json").read_text(encoding="utf-8"))
    return Quick(page, written, figures)


def test_every_figure_is_held_against_its_bar_or_skipped_with_a_word(quick: Quick) -> None:
    bars = quick.figures["bars"]
    kinds = {
        "single call": 18,
        "10 concurrent calls sharing parents": 2,
        "144 directories": 2,
        "thread visits": 2,
        "32 directories at 5 ms": 1,
        "time per directory": 1,
        "healthy throughput": 2,
        "cancel to return": 1,
    }
    counted = Counter(kind for bar in bars for kind in kinds if bar["name"].startswith(kind))
    assert counted == kinds
    for bar in bars:
        assert (bar["verdict"] == "skipped") == (bar["measured"] is None) == bool(bar["why"])
        assert f"| {bar['name']} |" in quick.page


def test_the_page_and_the_figures_tell_of_every_section(quick: Quick) -> None:
    assert quick.written == quick.page
    assert {row["scenario"] for row in quick.figures["single"]} == set(PATHS)
    assert {"single", "together", "bulk", "cancellation", "memory"} <= quick.figures.keys()


def test_where_a_mount_can_be_frozen_everybody_is_back_and_nothing_comes_late(quick: Quick) -> None:
    needs_root()
    needs_program("mkfs.ext4")
    # This much is no matter of speed.
    rows = {row["peer"]: row for row in quick.figures["cancellation"]}
    ours = [row for name, row in rows.items() if name.startswith("trio_mkdir")]
    assert [(row["late"], row["left"]) for row in ours] == [(0, 0)] * 2
    # Or the mount did not hang.
    theirs = rows["trio.Path.mkdir"]
    assert theirs["late"] == theirs["calls"] > 0
    assert len(quick.figures["dead mount"]) > 2


def test_single_fills_its_table(tmp_path: Path) -> None:
    figures, where = tmp_path / "figures.json", tmp_path / "where"
    where.mkdir()
    options = ("--runs", "2", "--json", str(figures), str(where))
    output = run("single.py", *options, directory=tmp_path)
    rows = [line for line in output.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[1] for row in rows[2:]] == PATHS
    assert all(re.search(r" \d+\.\d\d / \d+\.\d\d ", row) for row in rows[2:])
    assert len(json.loads(figures.read_text(encoding="utf-8"))["seconds"]) == len(PATHS)
    assert list(where.iterdir()) == []


def test_the_picture_is_drawn_from_the_figures_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="only the benchmarks' own environment has it")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _picture  # noqa: PLC0415 - what lies beside a script is not on the path of tests

    seconds = {"count": 2, "median": 0.001, "p99": 0.002}
    row = {"place": "tmpfs", "scenario": "existing", "seconds": seconds}
    raw = {"single": [{**row, "peer": peer} for peer in ("trio_mkdir.makedirs", "trio.Path.mkdir")]}
    _picture.draw(raw, tmp_path / "first.svg")
    _picture.draw(raw, tmp_path / "second.svg")
    drawn = (tmp_path / "first.svg").read_text(encoding="utf-8")
    assert "existing, tmpfs" in drawn
    assert drawn == (tmp_path / "second.svg").read_text(encoding="utf-8")
