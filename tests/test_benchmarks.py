"""The benchmarks run and say what they are there to say. Their figures prove nothing here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from filesystems.mounts import mount_table
from filesystems.needs import needs_program, needs_root

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"

PATHS = ["new, depth 1", "new, depth 3", "new, depth 8", "one of 8 missing", "existing"]


def run(program: str, *arguments: str) -> str:
    """Run a benchmark to its good end, and return what it prints."""
    done = subprocess.run(  # noqa: S603 - our own benchmarks
        [sys.executable, str(BENCHMARKS / program), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_suite_runs_and_holds_every_figure_against_its_bar(tmp_path: Path) -> None:
    mounted = mount_table()
    page = run("run.py", "--quick", "--output", str(tmp_path))
    assert mount_table() == mounted
    assert (tmp_path / "benchmarks.md").read_text(encoding="utf-8") == page
    found: dict[str, Any] = json.loads((tmp_path / "benchmarks.json").read_text(encoding="utf-8"))
    bars = found["bars"]
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
        # What a machine lacks is said; nothing is left out without a word.
        assert (bar["verdict"] == "skipped") == (bar["measured"] is None) == bool(bar["why"])
        assert f"| {bar['name']} |" in page
    everywhere = {(row["scenario"], row["place"]) for row in found["single"]}
    assert {path for path, _ in everywhere} == set(PATHS)


def test_the_suite_finds_nothing_missing_on_a_machine_that_can_freeze(tmp_path: Path) -> None:
    needs_root()
    needs_program("mkfs.ext4")
    run("run.py", "--quick", "--only", "dead_mount", "cancellation", "--output", str(tmp_path))
    found = json.loads((tmp_path / "benchmarks.json").read_text(encoding="utf-8"))
    assert [bar["why"] for bar in found["bars"]] == [""] * 3
    ours = [row for row in found["cancellation"] if row["peer"].startswith("trio_mkdir")]
    # This much is no matter of speed: everybody is back, and nothing comes late and stays.
    assert [(row["late"], row["left"]) for row in ours] == [(0, 0)] * 2
    theirs = {row["peer"]: row for row in found["cancellation"]}
    assert theirs["trio.Path.mkdir"]["late"] == theirs["trio.Path.mkdir"]["calls"]


def test_single_fills_its_table(tmp_path: Path) -> None:
    figures, where = tmp_path / "figures.json", tmp_path / "where"
    where.mkdir()
    output = run("single.py", "--runs", "2", "--json", str(figures), str(where))
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
