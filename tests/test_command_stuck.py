"""The command on a mount that does not answer."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from command import ENVIRONMENT, ours
from filesystems.frozen import FreezableMount, freezable_mount
from filesystems.fuse import fuse_mount
from filesystems.stuck import stuck_threads


@pytest.fixture
def frozen(tmp_path: Path) -> Iterator[FreezableMount]:
    """A mount on which every mkdir(2) is stuck until it is thawed."""
    with freezable_mount(tmp_path) as mount:
        (mount.path / "stood").mkdir()
        mount.freeze()
        yield mount


@attrs.define
class Running:
    """The command, with its process that works."""

    front: subprocess.Popen[str]
    said: str
    """Before it was stuck."""
    worker: int
    _worker_ended: int

    def wait_worker_ended(self) -> None:
        assert select.select([self._worker_ended], [], [], 10)[0]


@pytest.fixture
def stuck(frozen: FreezableMount, tmp_path: Path) -> Iterator[Running]:
    """The command, with its second operand stuck in the kernel."""
    words = ["-pv", str(tmp_path / "done"), str(frozen.path / "a/b")]
    with subprocess.Popen(  # noqa: S603
        [*ours(), *words],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as front:
        assert front.stdout is not None
        # A disk can keep the first operand waiting, too: what is stuck after this is the second.
        said = front.stdout.readline()
        worker = wait_stuck_child(front.pid)
        ended = os.pidfd_open(worker)
        yield Running(front, said, worker, ended)
        frozen.thaw()
    os.close(ended)


def wait_stuck_child(process: int) -> int:
    """The child of a process that has a thread stuck in the kernel, as soon as there is one."""
    children = Path(f"/proc/{process}/task/{process}/children")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for child in children.read_text().split():
            with contextlib.suppress(FileNotFoundError):  # one of those that an import may start
                if stuck_threads(pid=child):
                    return int(child)
    raise TimeoutError


class TestStuck:
    def test_timeout_ends_the_command_and_nothing_appears_later(
        self, frozen: FreezableMount, tmp_path: Path
    ) -> None:
        done = subprocess.run(  # noqa: S603
            [*ours(), "--timeout=2", "-p", tmp_path / "done", frozen.path / "a/b"],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=15,  # the mount is frozen for longer
            check=False,
        )
        cannot, late = done.stderr.splitlines()
        assert done.returncode == 124
        assert cannot.endswith("/a/b': not done within 2 s")
        assert f"'{frozen.path}/a' may still appear: '{frozen.path}' does not answer" in late
        (process,) = [int(word) for word in late.split() if word.isdigit()]
        assert stuck_threads(pid=process)
        ended = os.pidfd_open(process)
        frozen.thaw()
        assert select.select([ended], [], [], 10)[0]
        os.close(ended)
        assert sorted(os.listdir(frozen.path)) == ["lost+found", "stood"]
        assert (tmp_path / "done").is_dir()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_signal_ends_the_command_and_keeps_what_was_finished(
        self, frozen: FreezableMount, stuck: Running, tmp_path: Path, number: signal.Signals
    ) -> None:
        stuck.front.send_signal(number)
        out, err = stuck.front.communicate(timeout=15)
        assert stuck.front.returncode == 128 + number
        assert stuck.said + out == f"trio-mkdir: created directory '{tmp_path}/done'\n"
        assert f"'{frozen.path}/a/b': interrupted by {number.name}\n" in err
        assert f"process {stuck.worker} stays to undo it\n" in err
        frozen.thaw()
        stuck.wait_worker_ended()
        assert sorted(os.listdir(frozen.path)) == ["lost+found", "stood"]
        assert (tmp_path / "done").is_dir()

    def test_second_signal_ends_the_command_at_once(
        self, frozen: FreezableMount, stuck: Running
    ) -> None:
        stuck.front.send_signal(signal.SIGINT)
        stuck.front.send_signal(signal.SIGTERM)
        assert stuck.front.wait(timeout=15) == 128 + signal.SIGTERM  # the first would give another
        frozen.thaw()
        stuck.wait_worker_ended()
        assert sorted(os.listdir(frozen.path)) == ["lost+found", "stood"]

    def test_command_that_is_killed_leaves_nothing_either(
        self, frozen: FreezableMount, stuck: Running
    ) -> None:
        stuck.front.kill()
        assert stuck.front.wait(timeout=15) == -signal.SIGKILL
        frozen.thaw()
        stuck.wait_worker_ended()
        assert "a" not in os.listdir(frozen.path)

    def test_step_timeout_fails_one_operand_and_goes_on_with_the_next(
        self, frozen: FreezableMount, tmp_path: Path
    ) -> None:
        done = subprocess.run(  # noqa: S603
            [*ours(), "--step-timeout=2", "--retries=0", frozen.path / "a", tmp_path / "done"],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=15,
            check=False,
        )
        cannot, late = done.stderr.splitlines()
        assert done.returncode == 1
        assert cannot.endswith(f"'{frozen.path}/a': the filesystem does not answer")
        assert "may still appear" in late
        assert (tmp_path / "done").is_dir()


def test_parents_of_a_stuck_directory_are_taken_back_after_it(tmp_path: Path) -> None:
    with fuse_mount(tmp_path) as mount:
        hold = mount.hold("mkdir", "/a/b")
        with subprocess.Popen(  # noqa: S603
            [*ours(), "-pv", mount.path / "done", mount.path / "a/b/c"],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as front:
            hold.wait_arrived()
            front.send_signal(signal.SIGINT)
            out, err = front.communicate(timeout=15)
        assert front.returncode == 128 + signal.SIGINT
        assert out == f"trio-mkdir: created directory '{mount.path}/done'\n"
        assert f"'{mount.path}/a/b' may still appear: " in err
        assert f"'{mount.path}/a' still stands: " in err
        (process,) = {int(word) for word in err.split() if word.isdigit()}
        ended = os.pidfd_open(process)
        hold.release()
        assert select.select([ended], [], [], 10)[0]
        os.close(ended)
        assert os.listdir(mount.path) == ["done"]
