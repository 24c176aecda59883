"""The two processes, each beside a stand-in for the other."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
from command import Front

from trio_mkdir._command import _front, _voice

pytest_plugins = ["command_fixtures"]


@attrs.define
class Child:
    """A process that answers as it is told, with the pipe that its answer comes through."""

    pid: int
    answers: int


@pytest.fixture
def child() -> Iterator[Callable[[str], Child]]:
    answers, to_front = os.pipe()

    def start(script: str) -> Child:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", f"import os, signal; fd = {to_front}; {script}"],
            pass_fds=[to_front],
        )
        os.close(to_front)
        process.returncode = 0  # it is not for subprocess to wait for it
        return Child(process.pid, answers)

    yield start
    os.close(answers)


class TestAnswer:
    def test_is_the_status(self, child: Callable[[str], Child]) -> None:
        made = child("os.write(fd, bytes([7, False]))")
        assert _front.await_answer(made.pid, made.answers) == 7
        with pytest.raises(ChildProcessError):  # nobody is left to be waited for
            os.waitpid(made.pid, 0)

    def test_of_a_child_that_stays_is_not_waited_on(self, child: Callable[[str], Child]) -> None:
        made = child("os.write(fd, bytes([124, True])); signal.pause()")
        assert _front.await_answer(made.pid, made.answers) == 124
        os.kill(made.pid, signal.SIGKILL)
        os.waitpid(made.pid, 0)

    def test_of_a_child_that_cannot_end_is_enough(
        self, child: Callable[[str], Child], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_front, "GRACE", 0)
        made = child("os.write(fd, bytes([1, False])); signal.pause()")
        assert _front.await_answer(made.pid, made.answers) == 1
        os.kill(made.pid, signal.SIGKILL)
        os.waitpid(made.pid, 0)

    def test_of_a_child_that_was_killed_is_as_a_shell_has_it(
        self, child: Callable[[str], Child]
    ) -> None:
        made = child("os.kill(os.getpid(), signal.SIGKILL)")
        assert _front.await_answer(made.pid, made.answers) == 128 + signal.SIGKILL

    def test_of_a_child_that_vanished_is_a_failure(self, child: Callable[[str], Child]) -> None:
        made = child("os._exit(0)")
        assert _front.await_answer(made.pid, made.answers) == 1


@pytest.mark.usefixtures("_process")
class TestFront:
    def test_child_that_cannot_be_made_is_told(self, capfd: pytest.CaptureFixture[str]) -> None:
        def fork() -> int:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        assert _front.in_child(lambda _: None, _voice.Voice("trio-mkdir"), fork) == 1
        message = "trio-mkdir: cannot fork: Resource temporarily unavailable\n"
        assert capfd.readouterr().err == message

    def test_ends_with_its_child(self) -> None:
        def fork() -> int:
            return os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)

        assert _front.in_child(lambda _: None, _voice.Voice("trio-mkdir"), fork) == 1

    def test_passes_signals_on(self) -> None:
        from_front, to_child = os.pipe()
        assert _front.pass_on_signals(to_child) == [signal.SIGINT, signal.SIGTERM]
        os.kill(os.getpid(), signal.SIGTERM)
        assert _front.Front(from_front, -1).signal() == signal.SIGTERM
        os.close(to_child)
        assert _front.Front(from_front, -1).signal() == signal.SIGKILL
        os.close(from_front)

    def test_leaves_signals_ignored_that_were(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert _front.pass_on_signals(-1) == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGTERM)  # and a child that has ended is no harm

    def test_is_free_of_the_streams_of_a_child_that_stays(self, tmp_path: Path) -> None:
        answers, to_front = os.pipe()
        output = os.open(tmp_path / "output", os.O_CREAT | os.O_WRONLY)
        front = _front.Front(-1, to_front, [signal.SIGTERM], outputs=[output])
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        front.answer(124, stays=True)
        assert os.read(answers, 9) == bytes([124, True])
        os.write(output, b"nowhere")
        assert (tmp_path / "output").read_bytes() == b""
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        os.close(answers)
        front.answer(124, stays=True)  # nobody is there any more
        os.close(output)
        os.close(to_front)

    def test_learns_of_a_bug(self, capfd: pytest.CaptureFixture[str]) -> None:
        def job(_: _front.Front) -> None:
            raise KeyError("bug")

        front = Front()
        _front.do_job(job, front)
        assert front.answers == [(1, False)]
        assert "KeyError: 'bug'" in capfd.readouterr().err
        front.close()
