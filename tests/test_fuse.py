"""The FUSE filesystem of the tests does what it is told."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filesystems.fuse import FuseMount, ServerGone, fuse, fuse_mount
from filesystems.mounts import mount_table
from filesystems.needs import needs_root

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["fuse"]

TESTS = Path(__file__).resolve().parent


def in_thread(function: Callable[..., object], *args: object) -> Future[object]:
    """Run in a thread that nobody has to wait for."""
    future: Future[object] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args))
        except OSError as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def answer(function: Callable[..., object], *args: object) -> int:
    try:
        function(*args)
    except OSError as error:
        return error.errno or 0
    return 0


def test_it_is_its_own_filesystem_and_passes_everything_on(fuse: FuseMount) -> None:
    (fuse.path / "a" / "b").mkdir(parents=True, mode=0o700)
    assert (fuse.backing / "a" / "b").stat().st_mode & 0o7777 == 0o700
    (fuse.path / "a" / "file").write_text("text")
    assert (fuse.path / "a" / "file").read_text() == "text"
    os.symlink("file", fuse.path / "a" / "link")
    assert os.readlink(fuse.path / "a" / "link") == "file"
    assert sorted(os.listdir(fuse.path / "a")) == ["b", "file", "link"]
    os.rename(fuse.path / "a" / "file", fuse.path / "a" / "moved")
    os.unlink(fuse.path / "a" / "link")
    (fuse.path / "a" / "moved").unlink()
    (fuse.path / "a" / "b").chmod(0o711)
    assert (fuse.backing / "a" / "b").stat().st_mode & 0o7777 == 0o711
    (fuse.path / "a" / "b").rmdir()
    assert os.listdir(fuse.backing / "a") == []
    assert fuse.path.stat().st_dev != fuse.path.parent.stat().st_dev
    assert os.statvfs(fuse.path).f_blocks == os.statvfs(fuse.backing).f_blocks


def test_what_it_answers_is_never_older_than_the_directory_behind_it(fuse: FuseMount) -> None:
    assert not (fuse.path / "a").exists()
    (fuse.backing / "a").mkdir()
    assert (fuse.path / "a").stat().st_ino == (fuse.backing / "a").stat().st_ino
    (fuse.backing / "a").rmdir()
    assert not (fuse.path / "a").exists()


def test_a_held_request_waits_for_its_release_while_others_are_served(fuse: FuseMount) -> None:
    (fuse.path / "a").mkdir()
    gate = fuse.hold("mkdir", "/a/*")
    stuck = in_thread(os.mkdir, fuse.path / "a" / "b")
    gate.wait_arrived()
    (fuse.path / "c").mkdir()
    assert gate.arrived == ["/a/b"]
    assert not (fuse.backing / "a" / "b").exists()
    assert fuse.log("mkdir")[1:] == [("mkdir", "/a/b", None), ("mkdir", "/c", 0)]
    gate.release()
    gate.release()
    stuck.result(10)
    assert (fuse.backing / "a" / "b").is_dir()
    (fuse.path / "a" / "d").mkdir()  # held no more


def test_a_request_held_afterwards_has_taken_effect(fuse: FuseMount) -> None:
    gate = fuse.hold("mkdir", after=True)
    stuck = in_thread(os.mkdir, fuse.path / "a")
    gate.wait_arrived()
    assert (fuse.backing / "a").is_dir()
    assert not stuck.done()
    gate.release()
    stuck.result(10)


def test_many_requests_are_held_at_once(fuse: FuseMount) -> None:
    parents = [fuse.path / f"{number}" for number in range(100)]
    for parent in parents:
        parent.mkdir()
    gate = fuse.hold("mkdir")
    stuck = [in_thread(os.mkdir, parent / "a") for parent in parents]
    gate.wait_arrived(100)
    assert (fuse.path / "0").is_dir()
    gate.release()
    for future in stuck:
        future.result(10)


def test_a_request_that_does_not_come_is_told(fuse: FuseMount) -> None:
    with pytest.raises(TimeoutError, match=r"\[\] of 1"):
        fuse.hold("mkdir").wait_arrived(timeout=0.01)


def test_a_failure_comes_as_often_as_asked_for_where_asked_for(fuse: FuseMount) -> None:
    fuse.fail("mkdir", errno.ENOMEM, "/a*", times=2)
    answers = [answer(os.mkdir, fuse.path / name) for name in ("a", "b", "aa", "a")]
    assert answers == [errno.ENOMEM, 0, errno.ENOMEM, 0]
    assert [request.errno for request in fuse.log("mkdir")] == answers


@pytest.mark.parametrize("number", [errno.EIO, errno.EINTR, errno.ETIMEDOUT, errno.EISDIR])
def test_a_lost_reply_is_an_error_about_something_that_was_done(
    fuse: FuseMount, number: int
) -> None:
    fuse.fail("mkdir", number, after=True)
    assert answer(os.mkdir, fuse.path / "a") == number
    assert (fuse.path / "a").is_dir()


def test_a_delay_delays(fuse: FuseMount) -> None:
    fuse.delay("mkdir", 0.05)
    began = time.monotonic()
    (fuse.path / "a").mkdir()
    assert time.monotonic() - began >= 0.05


def test_clearing_releases_and_forgives_everything(fuse: FuseMount) -> None:
    gate = fuse.hold("mkdir", "/a")
    fuse.fail("mkdir", errno.EIO)
    stuck = in_thread(os.mkdir, fuse.path / "a")
    gate.wait_arrived()
    fuse.delay("*", 100)
    fuse.clear()
    stuck.result(10)
    (fuse.path / "b").mkdir()


def test_a_killed_server_leaves_a_mount_that_is_not_connected(fuse: FuseMount) -> None:
    (fuse.path / "a").mkdir()
    gate = fuse.hold("mkdir")
    stuck = in_thread(os.mkdir, fuse.path / "b")
    gate.wait_arrived()
    fuse.kill()
    assert answer(lambda: stuck.result(10)) == errno.ECONNABORTED
    assert answer(os.mkdir, fuse.path / "c") == errno.ENOTCONN
    # What is known stays known, and only what has to reach the server cannot.
    assert fuse.log("mkdir") == [("mkdir", "/a", 0), ("mkdir", "/b", None)]
    gate.release()
    fuse.clear()
    with pytest.raises(ServerGone):
        fuse.fail("mkdir", errno.EIO)


def test_an_aborted_connection_ends_what_waits(fuse: FuseMount) -> None:
    needs_root()
    gate = fuse.hold("mkdir")
    stuck = in_thread(os.mkdir, fuse.path / "b")
    gate.wait_arrived()
    fuse.abort()
    assert answer(lambda: stuck.result(10)) == errno.ECONNABORTED
    assert answer(os.mkdir, fuse.path / "c") == errno.ENOTCONN


def test_a_mount_that_vanishes_shows_the_directory_beneath(fuse: FuseMount) -> None:
    (fuse.path / "a").mkdir()
    assert fuse.beneath() == []
    fuse.vanish()
    assert os.listdir(fuse.path) == []
    (fuse.path / "b").mkdir()
    assert fuse.beneath() == ["b"]
    assert os.listdir(fuse.backing) == ["a"]
    (fuse.path / "b").rmdir()


def test_nothing_is_left_when_a_test_fails(tmp_path: Path) -> None:
    stuck: list[Future[object]] = []
    with pytest.raises(ZeroDivisionError), fuse_mount(tmp_path) as mount:
        gate = mount.hold("mkdir", after=True)
        stuck.append(in_thread(os.mkdir, mount.path / "a"))
        gate.wait_arrived()
        raise ZeroDivisionError
    stuck[0].result(10)
    assert not any(tmp_path in entry.path.parents for entry in mount_table())
    assert os.listdir(tmp_path / "fuse-backing") == ["a"]


SCRIPT = """
import json, os, pathlib, sys, threading
from filesystems.fuse import fuse_mount
with fuse_mount(pathlib.Path(sys.argv[1])) as mount:
    gate = mount.hold("mkdir")
    threading.Thread(target=os.mkdir, args=(mount.path / "a",), daemon=True).start()
    gate.wait_arrived()
    print(json.dumps(mount._process.pid), flush=True)
    sys.stdin.read()
"""


def test_nothing_is_left_when_the_tests_are_killed(tmp_path: Path) -> None:
    needs_root()
    # One of its threads waits for the server, so its descriptors stay open: only its dying tells.
    process = subprocess.Popen(  # noqa: S603 - the script above
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    with process:
        server = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while Path(f"/proc/{server}").exists() or any(
        tmp_path in entry.path.parents for entry in mount_table()
    ):
        assert time.monotonic() < deadline
        time.sleep(0.01)
