"""The command in tests: run beside GNU mkdir, or in the process of the test."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

import trio_mkdir
from trio_mkdir._command import _front, _options, _voice, _work
from trio_mkdir._command._modes import Plan

MKDIR = shutil.which("mkdir")
LONG = "n" * 256
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "POSIXLY_CORRECT"},
    "LC_ALL": "C",
    "PYTHONPATH": str(Path(trio_mkdir.__file__).parents[1]),
}


@attrs.frozen
class Outcome:
    """All that can be seen of a command once it has ended."""

    status: int
    out: bytes
    err: bytes
    tree: tuple[tuple[bytes, str, bytes], ...]
    """Of every file its path, type and mode, and ACL."""

    def modes(self, *paths: bytes) -> list[str]:
        modes = {path: mode for path, mode, _ in self.tree}
        return [modes[path] for path in paths]


def gnu() -> list[str]:
    """The command line of GNU mkdir."""
    if MKDIR is not None:
        version = subprocess.check_output([MKDIR, "--version"])  # noqa: S603
        if b"GNU coreutils" in version:
            return [MKDIR]
    pytest.skip("mkdir is not GNU's")


def ours() -> list[str]:
    return [sys.executable, "-m", "trio_mkdir"]


def furnish(directory: Path) -> None:
    """Things that can be in the way, and parents that hand something on."""
    (directory / "d").mkdir()
    (directory / "f").touch()
    (directory / "to_d").symlink_to("d")
    (directory / "to_f").symlink_to("f")
    (directory / "to_nothing").symlink_to("nothing")
    (directory / "loop").symlink_to("loop")
    (directory / "setgid").mkdir()
    (directory / "setgid").chmod(0o2775)


def tree(directory: Path) -> Iterator[tuple[bytes, str, bytes]]:
    root = os.fsencode(directory)
    for parent, directories, files in os.walk(root):
        for name in directories + files:
            path = os.path.join(parent, name)
            try:
                acl = os.getxattr(path, "system.posix_acl_access", follow_symlinks=False)
            except OSError:
                acl = b""
            mode = stat.filemode(os.lstat(path).st_mode)
            yield os.path.relpath(path, root), mode, acl


def observe(
    command: list[str], arguments: Sequence[str | bytes], directory: Path, umask: int
) -> Outcome:
    """Run the command in ``directory`` and look at everything."""
    done = subprocess.run(  # noqa: S603 - the two commands that are compared
        [*command, *arguments],
        cwd=directory,
        umask=umask,
        env=ENVIRONMENT,
        capture_output=True,
        check=False,
    )
    seen = tuple(sorted(tree(directory)))
    for path, _, _ in seen:  # or pytest could not remove them
        with contextlib.suppress(OSError):
            (directory / os.fsdecode(path)).chmod(0o700)
    return Outcome(done.returncode, plain(done.stdout), plain(done.stderr), seen)


def plain(said: bytes) -> bytes:
    """What was said, by whichever name the command goes."""
    return said.replace(b"trio-mkdir", b"mkdir").replace(os.fsencode(MKDIR or "mkdir"), b"mkdir")


class Twins:
    """Two directories with the same in them, for the two commands."""

    def __init__(self, root: Path) -> None:
        self.theirs, self.ours = root / "gnu", root / "ours"
        for directory in (self.theirs, self.ours):
            directory.mkdir()
            furnish(directory)

    def run(self, *arguments: str | bytes, umask: int = 0o022) -> tuple[Outcome, Outcome]:
        return (
            observe(ours(), arguments, self.ours, umask),
            observe(gnu(), arguments, self.theirs, umask),
        )


class Front(_front.Front):
    """Stands for the process that waits: keeps its answers and the standard streams."""

    def __init__(self) -> None:
        orders, self._to_child = os.pipe()
        super().__init__(orders, -1)
        self.answers: list[tuple[int, bool]] = []

    def answer(self, status: int, *, stays: bool) -> None:
        self.answers.append((status, stays))

    def send(self, number: int) -> None:
        os.write(self._to_child, bytes([number]))

    def die(self) -> None:
        if self._to_child >= 0:
            os.close(self._to_child)
            self._to_child = -1

    def close(self) -> None:
        self.die()
        os.close(self.orders)


@attrs.define
class Here:
    """The command in this process, but for what concerns processes."""

    front: Front
    _capture: pytest.CaptureFixture[str]

    def run(self, *arguments: str, operands: Any = None) -> tuple[int, list[str], list[str]]:
        """Its status and the lines that it wrote."""
        options = _options.parse([*arguments, *(["-"] if operands else [])])
        options.operands = operands or options.operands
        options.parents = options.parents or options.source is not None
        plan = Plan(options.mode, parents=options.parents, umask=0o022)
        _work.work(options, plan, _voice.Voice("trio-mkdir"), self.front)
        ((status, _),) = self.front.answers
        said = self._capture.readouterr()
        return status, said.out.splitlines(), said.err.splitlines()
