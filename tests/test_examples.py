"""The examples run, and print what they are there to show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from filesystems.needs import needs_program, needs_root, unavailable

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

# Beyond the promised time, for a machine that is busy with other things.
SLACK = 1.0

# How hung_mount.py ends when it must freeze something and cannot.
CANNOT_FREEZE = 2


def run(example: str, *args: str, directory: Path, path: str | None = None) -> str:
    """Run an example in ``directory`` and return what it prints."""
    done = subprocess.run(  # noqa: S603 - our own examples
        [sys.executable, str(EXAMPLES / example), *args],
        cwd=directory,
        env={**os.environ, "TMPDIR": str(directory), "PATH": path or os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode == CANNOT_FREEZE:
        unavailable(done.stderr.splitlines()[-1])
    assert (done.returncode, done.stderr) == (0, "")
    assert list(directory.iterdir()) == []  # it leaves nothing behind
    return done.stdout


def in_order(output: str, *patterns: str) -> list[re.Match[str]]:
    """Find a line for each pattern, each after the one before."""
    found = []
    lines = iter(output.splitlines())
    for pattern in patterns:
        match = next((match for line in lines if (match := re.search(pattern, line))), None)
        assert match is not None, f"no {pattern!r} where it belongs in:\n{output}"
        found.append(match)
    return found


def test_every_example_is_run_here() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    assert [path.name for path in EXAMPLES.glob("*.py") if f'run("{path.name}"' not in here] == []


def test_a_deadline_keeps_a_tree_whole_or_away(tmp_path: Path) -> None:
    output = run("deadline.py", directory=tmp_path)
    *_, made = in_order(
        output,
        r"^a deadline of 5 s$",
        r"^  in time: 8 directories",
        r"^  there now: 1$",
        r"^a deadline of 0\.2 s$",
        r"^  made    ([\d/]+)$",
    )
    in_order(output, rf"^  removed {made[1]}$", r"^  not in time", r"^  there now: nothing$")


def check_hung_mount(output: str) -> None:
    _, _, back, *_ = in_order(
        output,
        r"deadline 0\.3 s$",
        r"the mount hangs from here on$",
        r"the call is back after ([\d.]+) s",
        r"owed: uploads/2024 \(mkdir has not returned\)$",
        r"owed: uploads \(stands until it has\)$",
        r"elsewhere the same tree took",
        r"the mount answers again$",
        r"late answer: .* uploads/2024 has returned",
        r"removed uploads/2024$",
        r"removed uploads$",
        r"settled; on the mount: nothing$",
    )
    assert float(back[1]) <= 0.3 + 0.5 + SLACK


def test_a_simulated_hung_mount_delays_nobody_and_keeps_nothing(tmp_path: Path) -> None:
    check_hung_mount(run("hung_mount.py", "--simulated", directory=tmp_path))


def test_a_frozen_mount_delays_nobody_and_keeps_nothing(tmp_path: Path) -> None:
    needs_root()
    needs_program("mkfs.ext4")
    check_hung_mount(run("hung_mount.py", "--frozen", directory=tmp_path))


def test_where_nothing_can_be_frozen_the_example_says_so_and_plays(tmp_path: Path) -> None:
    output = run("hung_mount.py", directory=tmp_path, path="/nowhere")
    in_order(output, r"^no frozen filesystem here \(.*mkfs.ext4.*\)", r" on a simulated mount, ")
    check_hung_mount(output)


def test_an_upload_is_whole_or_has_never_been(tmp_path: Path) -> None:
    in_order(run("upload_handler.py", directory=tmp_path), r"nothing else, not even 2024/07: 06")
