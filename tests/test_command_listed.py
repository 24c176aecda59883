"""Directories that a file names: all of them or none, as the names come."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from command import ENVIRONMENT, Here, ours

from trio_mkdir._command import _listed

pytest_plugins = ["command_fixtures"]


@pytest.fixture
def listed(tmp_path: Path) -> Callable[[bytes], None]:
    """Writes the file ``list``."""

    def write(text: bytes) -> None:
        (tmp_path / "list").write_bytes(text)

    return write


def made(tmp_path: Path) -> set[str]:
    return {
        str(path.relative_to(tmp_path))
        for path in tmp_path.rglob("*")
        if path.is_dir() and not path.is_symlink()
    } - {"d", "setgid"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], b"a/b\nc\na/b\n"),
        ([], b"a/b\nc"),
        (["-0"], b"a/b\0c\0"),
        (["--null"], b"a/b\0c"),
    ],
)
def test_each_name_is_made_with_whatever_is_missing_above_it(
    here: Here, tmp_path: Path, listed: Callable[[bytes], None], options: list[str], text: bytes
) -> None:
    listed(text)
    assert here.run("--from", "list", *options) == (0, [], [])
    assert made(tmp_path) == {"a", "a/b", "c"}


def test_names_keep_their_bytes_and_their_lines(
    here: Here, tmp_path: Path, listed: Callable[[bytes], None]
) -> None:
    listed(b"new\nline\0\xff\0")
    assert here.run("--from=list", "-0")[0] == 0
    assert made(tmp_path) == {"new\nline", os.fsdecode(b"\xff")}


def test_a_list_longer_than_what_is_read_at_once_is_made(
    here: Here, tmp_path: Path, listed: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_listed, "_PIECE", 3)
    listed(b"".join(b"a/%d\n" % number for number in range(100)))
    assert here.run("--from", "list")[0] == 0
    assert len(made(tmp_path)) == 101


def test_a_failure_undoes_all_and_is_said_once(
    here: Here, tmp_path: Path, listed: Callable[[bytes], None]
) -> None:
    listed(b"a/b\nf/x\nc\n")
    status, out, err = here.run("--from", "list", "--json", "-p")
    assert status == 1
    assert err == ["trio-mkdir: cannot create directory 'f': Not a directory"]
    (report,) = map(json.loads, out)
    assert report["path"] == "list"
    assert report["error"]["name"] == "ENOTDIR"
    assert made(tmp_path) == set()


def test_success_has_one_report(here: Here, listed: Callable[[bytes], None]) -> None:
    listed(b"a/b\nc\n")
    status, (line,), err = here.run("--from", "list", "--json", "-v")
    assert status == 0
    assert {*json.loads(line)["created"]} == {"a", "a/b", "c"}
    assert json.loads(line)["error"] is None
    assert len(err) == 3


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nothing", "cannot open 'nothing': No such file or directory"),
        ("d", "cannot read 'd': Is a directory"),
        ("list", "cannot use 'list': it holds a null byte; see --null"),
    ],
)
def test_a_list_that_cannot_be_read_undoes_all(
    here: Here, tmp_path: Path, listed: Callable[[bytes], None], source: str, said: str
) -> None:
    listed(b"a\nb\0c\n")
    assert here.run("--from", source) == (1, [], [f"trio-mkdir: {said}"])
    assert made(tmp_path) == set()


def test_time_that_is_up_takes_back_all(
    here: Here, tmp_path: Path, listed: Callable[[bytes], None]
) -> None:
    listed(b"a\n")
    status, _, err = here.run("--from", "list", "--timeout", "0")
    assert status == 124
    assert err == ["trio-mkdir: cannot create the directories of 'list': not done within 0 s"]
    assert made(tmp_path) == set()


def test_standard_input_is_read_as_it_comes(tmp_path: Path) -> None:
    command = subprocess.Popen(  # noqa: S603
        [*ours(), "--from", "-", "-v"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    out, _ = command.communicate(b"a/b\nc\n")
    assert command.returncode == 0
    assert len(out.splitlines()) == 3
    assert made(tmp_path) == {"a", "a/b", "c"}


def test_start_up_imports_no_progress_bar(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("a\n")
    script = (
        "import sys; sys.argv = ['x', '--from', 'list']\n"
        "from trio_mkdir._command import _front, main\n"
        "import os; _front.os._exit = lambda status: print('rich' in sys.modules) or sys.exit()\n"
        "main()"
    )
    out = subprocess.check_output(  # noqa: S603
        [sys.executable, "-c", script], cwd=tmp_path, env=ENVIRONMENT, text=True
    )
    assert "True" not in out


def test_standard_input_stays_open(
    here: Here, tmp_path: Path, listed: Callable[[bytes], None]
) -> None:
    listed(b"a/b\n")
    before = os.dup(0)
    descriptor = os.open("list", os.O_RDONLY)
    os.dup2(descriptor, 0)
    try:
        assert here.run("--from", "-")[0] == 0
        assert os.read(0, 1) == b""
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(descriptor)
    assert made(tmp_path) == {"a", "a/b"}


# On a terminal


class Terminal:
    """Stands for standard error."""

    def __init__(self) -> None:
        self._ours, theirs = os.openpty()
        self.stream = os.fdopen(theirs, "w")

    def said(self, end: str) -> str:
        """What was written, up to ``end``: it comes in pieces."""
        said = ""
        while not said.endswith(end):
            said += os.read(self._ours, 1).decode("latin-1")
        return said

    def close(self) -> None:
        self.stream.close()
        os.close(self._ours)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


def test_a_terminal_has_a_bar(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    monkeypatch.setenv("TERM", "xterm")
    with _listed.shown() as tell:
        assert tell is not None
        tell(7, None)
    assert terminal.said("7 directories")


def test_a_terminal_has_a_number_where_there_is_no_rich(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with _listed.shown() as tell:
        assert tell is not None
        tell(7, None)
    assert terminal.said("\x1b[K") == "\r7 directories\r\x1b[K"


def test_what_is_no_terminal_has_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (None, SimpleNamespace(isatty=lambda: False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with _listed.shown() as tell:
            assert tell is None
