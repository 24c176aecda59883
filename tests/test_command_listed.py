"""Directories that a file names: all of them or none, as the names come."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from command import ENVIRONMENT, Here, ours

from trio_mkdir._command import _disk, _listed, _work

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


# With a mode, and beneath a root


def mode_of(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize(
    ("mode", "named"),
    [("700", 0o700), ("2755", 0o2755), ("1777", 0o1777), ("g+w,o-x", 0o776), ("0", 0)],
)
def test_what_is_named_gets_the_mode_and_what_is_above_it_does_not(
    here: Here, listed: Callable[[bytes], None], mode: str, named: int
) -> None:
    listed(b"a/b\nc/\nd/x/.\nd\n./e//\n")
    assert here.run("--from", "list", "-m", mode) == (0, [], [])
    assert [mode_of(path) for path in ("a/b", "c", "d/x", "e")] == [named] * 4
    assert mode_of("a") == mode_of("d") == 0o755  # the last one stood before


def test_what_was_made_on_the_way_before_it_is_named_gets_the_mode(
    here: Here, listed: Callable[[bytes], None]
) -> None:
    listed(b"".join(b"a/%d\n" % number for number in range(8192)) + b"a\n")
    assert here.run("--from", "list", "-m", "2700") == (0, [], [])
    assert {mode_of("a"), *(mode_of(entry.path) for entry in os.scandir("a"))} == {0o2700}


@pytest.mark.usefixtures("_nobody")
def test_modes_that_shut_out_their_owner_are_set_from_below(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("list").write_text("a\nb\n")
    monkeypatch.setattr(_work, "SLICE", 0.0)  # so that it takes several visits
    assert here.run("--from", "list", "-m", "1000") == (0, [], [])
    assert mode_of("a") == mode_of("b") == 0o1000


def test_a_mode_that_cannot_be_set_takes_back_all(
    here: Here,
    tmp_path: Path,
    listed: Callable[[bytes], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(path: str, mode: int, explicit: int) -> None:
        if path == "a/b":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        _disk.correct_mode(path, mode, explicit)

    monkeypatch.setattr(_work, "correct_mode", refuse)
    listed(b"a/b\na/c\nd/x\n")
    status, out, err = here.run("--from", "list", "-m", "2755", "--json")
    assert status == 1
    assert err == ["trio-mkdir: cannot change permissions of 'a/b': Operation not permitted"]
    assert json.loads(out[0])["error"]["path"] == "a/b"
    assert made(tmp_path) == set()


def test_of_modes_that_hang_the_one_at_which_they_hang_is_told(
    here: Here,
    tmp_path: Path,
    listed: Callable[[bytes], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer, asked = threading.Event(), list[str]()

    def hang(path: str, mode: int, explicit: int) -> None:
        asked.append(path)
        if len(asked) == 2:
            assert answer.wait(60)

    monkeypatch.setattr(_work, "correct_mode", hang)
    listed(b"a/b\na/c\na/d\n")
    status, _, err = here.run("--from", "list", "-m", "2755", "--step-timeout", "0.01")
    assert status == 1
    assert err == [
        f"trio-mkdir: cannot change permissions of '{asked[1]}': the filesystem does not answer"
    ]
    assert made(tmp_path) == set()
    answer.set()


def test_names_are_made_in_the_root_and_get_their_modes_there(
    here: Here, tmp_path: Path, listed: Callable[[bytes], None]
) -> None:
    (tmp_path / "root").mkdir()
    listed(b"a/b\na/../c\nd/\n")
    status, out, err = here.run("--beneath", "root", "--from", "list", "-m", "2700", "-v")
    assert (status, err) == (0, [])
    assert len(out) == 4
    paths = [f"root/{path}" for path in ("a", "a/b", "c", "d")]
    assert [mode_of(path) for path in paths] == [0o755, 0o2700, 0o2700, 0o2700]


@pytest.mark.parametrize("name", ["../x", "/x", "out/x", "a/../../x"])
def test_a_name_that_leads_out_takes_back_all(
    here: Here, tmp_path: Path, listed: Callable[[bytes], None], name: str
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "out").symlink_to("../d")
    listed(f"a/b\n{name}\nc\n".encode())
    status, _, err = here.run("--from=list", "--beneath=root", "-m", "2700")
    assert (status, err) == (
        1,
        [f"trio-mkdir: cannot create directory '{name}': it leads out of 'root'"],
    )
    assert made(tmp_path) == {"root"}
    assert os.listdir(tmp_path / "d") == []


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
