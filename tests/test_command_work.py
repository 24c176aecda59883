"""What becomes of operands, and what is said of them."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from command import LONG, Front, Here

import trio_mkdir
from trio_mkdir._command import _options, _sentences, _voice, _work
from trio_mkdir._command._modes import Plan

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

pytest_plugins = ["command_fixtures"]


class TestJson:
    def test_every_operand_has_a_line_with_its_report(self, here: Here) -> None:
        status, out, err = here.run("--json", "-p", "a/b", "d", "f/x/y")
        assert status == 1
        assert err == ["trio-mkdir: cannot create directory 'f': Not a directory"]
        made, stood, failed = map(json.loads, out)
        assert made["created"] == ["a", "a/b"]
        assert made["error"] is None
        assert stood["created"] == []
        assert failed["path"] == "f/x/y"
        fields = {field.name for field in attrs.fields(trio_mkdir.Report)}
        assert {*made} == {*stood} == {*failed} == {*fields, "error"}

    def test_error_is_told_as_the_library_has_it(self, here: Here) -> None:
        _, (line,), _ = here.run("--json", "f/x")
        assert json.loads(line)["error"] == {
            "errno": errno.ENOTDIR,
            "name": "ENOTDIR",
            "message": os.strerror(errno.ENOTDIR),
            "root_cause": "IN_THE_WAY",
            "path": "f/x",
            "notes": [],
        }

    def test_names_that_are_no_text_survive(self, here: Here) -> None:
        name = os.fsdecode(b"\xff")
        _, (line,), _ = here.run("--json", name)
        assert line.isascii()
        assert json.loads(line)["created"] == [name]

    def test_verbose_lines_go_to_standard_error(self, here: Here) -> None:
        _, out, err = here.run("--json", "-v", "a")
        assert len(out) == 1
        assert err == ["trio-mkdir: created directory 'a'"]


def test_what_a_failure_takes_back_is_told(here: Here, tmp_path: Path) -> None:
    status, out, err = here.run("-pv", f"a/b/{LONG}", "c")
    assert status == 1
    assert err == [f"trio-mkdir: cannot create directory 'a/b/{LONG}': File name too long"]
    assert out == [
        "trio-mkdir: created directory 'a'",
        "trio-mkdir: created directory 'a/b'",
        "trio-mkdir: removed directory 'a/b'",
        "trio-mkdir: removed directory 'a'",
        "trio-mkdir: created directory 'c'",
    ]
    assert not (tmp_path / "a").exists()


class Library:
    """Stands for the rollback nursery of the library, with a filesystem as it has to be."""

    def __init__(
        self,
        failure: BaseException | None = None,
        report: trio_mkdir.Report | None = None,
        *,
        at_the_end: BaseException | None = None,
    ) -> None:
        self.cancel_scope = trio.CancelScope()
        self.report = report or trio_mkdir.Report("")
        self._failure = failure
        self._at_the_end = at_the_end

    @contextlib.asynccontextmanager
    async def open_rollback_nursery(self, policy: trio_mkdir.Policy) -> AsyncIterator[Library]:
        self.policy = policy
        yield self
        if self._at_the_end is not None:
            raise self._at_the_end

    async def mkdir(self, *_: Any, **__: Any) -> trio_mkdir.Report:
        if self._failure is not None:
            raise self._failure
        return self.report

    makedirs = mkdir

    def run(self, here: Here, monkeypatch: pytest.MonkeyPatch, *options: str) -> list[str]:
        """What is said on standard error."""
        monkeypatch.setattr(trio_mkdir, "open_rollback_nursery", self.open_rollback_nursery)
        status, _, err = here.run("m/x", *options)
        assert status == (1 if err else 0)
        return err


class TestLibraryOptions:
    def policy(
        self, here: Here, monkeypatch: pytest.MonkeyPatch, *options: str
    ) -> trio_mkdir.Policy:
        library = Library()
        library.run(here, monkeypatch, *options)
        return library.policy

    def test_step_timeout_is_handed_on(self, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.policy(here, monkeypatch, "--step-timeout", "0.5").step_timeout == 0.5

    @pytest.mark.parametrize("retries", [0, 7])
    def test_retries_are_those_of_every_cause_that_can_pass(
        self, here: Here, monkeypatch: pytest.MonkeyPatch, retries: int
    ) -> None:
        policy = self.policy(here, monkeypatch, f"--retries={retries}")
        assert policy.retries.keys() == trio_mkdir.Policy().retries.keys()
        assert {backoff.max_retries for backoff in policy.retries.values()} == {retries}

    def test_by_default_the_library_decides(
        self, here: Here, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        policy = self.policy(here, monkeypatch)
        assert policy.retries == trio_mkdir.Policy().retries
        assert policy.step_timeout == trio_mkdir.Policy().step_timeout


class TestFailuresOfTheLibrary:
    """Those that no local filesystem answers with."""

    @pytest.mark.parametrize("kind", [trio_mkdir.StepTimeout, trio_mkdir.MountStalled])
    def test_silence_is_not_passed_off_as_an_answer(
        self, here: Here, monkeypatch: pytest.MonkeyPatch, kind: type[OSError]
    ) -> None:
        error = kind(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), "m/x")
        assert Library(error).run(here, monkeypatch) == [
            "trio-mkdir: cannot create directory 'm/x': the filesystem does not answer"
        ]

    def test_lost_mount_is_named(self, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
        error = trio_mkdir.MkdirError(errno.EIO, os.strerror(errno.EIO), "m/x")
        error.root_cause = trio_mkdir.RootCause.DISCONNECTED
        error.add_note("on the mount m")
        assert Library(error).run(here, monkeypatch) == [
            "trio-mkdir: cannot create directory 'm/x': Input/output error, on the mount m"
        ]

    @pytest.mark.parametrize("told_as_an_error_too", [False, True])
    def test_what_could_not_be_taken_back_is_told_once(
        self, here: Here, monkeypatch: pytest.MonkeyPatch, told_as_an_error_too: bool
    ) -> None:
        error = trio_mkdir.MkdirError(errno.EIO, os.strerror(errno.EIO), "m/x")
        kept = trio_mkdir.Kept(1, 0.0, "m", "rmdir: Device or resource busy", errno.EBUSY)
        report = trio_mkdir.Report("", created=("m",), kept=(kept,))
        group = BaseExceptionGroup("the rollback failed", [trio_mkdir.RollbackError("m")])
        library = Library(error, report, at_the_end=group if told_as_an_error_too else None)
        assert library.run(here, monkeypatch) == [
            "trio-mkdir: cannot create directory 'm/x': Input/output error",
            "trio-mkdir: 'm' is left: rmdir: Device or resource busy",
        ]

    def test_what_is_owed_is_not_said_to_be_created(
        self, here: Here, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Once it was, and it went when nobody could be told: the output is closed by then.
        error = trio_mkdir.MkdirError(errno.EIO, os.strerror(errno.EIO), "m/x")
        kept = trio_mkdir.Kept(1, 0.0, "m", "it is not empty")
        made = ("m", "m/owed", "m/gone")
        report = trio_mkdir.Report("", created=made, removed=("m/gone",), kept=(kept,))
        assert Library(error, report).run(here, monkeypatch, "-v", "--json")[-3:] == [
            "trio-mkdir: created directory 'm'",
            "trio-mkdir: created directory 'm/gone'",
            "trio-mkdir: removed directory 'm/gone'",
        ]

    def test_bug_is_not_hidden_by_a_rollback_that_failed(
        self, here: Here, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        both = [trio_mkdir.RollbackError("m"), KeyError("bug")]
        with pytest.RaisesGroup(KeyError, flatten_subgroups=True):
            Library(at_the_end=BaseExceptionGroup("both", both)).run(here, monkeypatch)

    def test_working_directory_that_is_gone_is_an_answer_of_its_own(
        self, here: Here, tmp_path: Path
    ) -> None:
        (tmp_path / "gone").mkdir()
        os.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        assert here.run("-p", "--json", "a/b")[0] == 1


class TestHeld:
    """What the command does in threads of its own, beside a library that is never late."""

    @pytest.fixture
    def held(self) -> Iterator[Callable[..., Any]]:
        answer = threading.Event()
        yield lambda *_: answer.wait()
        answer.set()

    def test_mode_is_waited_for_no_longer_than_any_step(
        self, here: Here, monkeypatch: pytest.MonkeyPatch, held: Callable[..., Any]
    ) -> None:
        monkeypatch.setattr(_work, "correct_mode", held)
        library = Library(report=trio_mkdir.Report("", created=("m/x",)))
        assert library.run(here, monkeypatch, "-m", "2755", "--step-timeout", "0.01") == [
            "trio-mkdir: cannot change permissions of 'm/x': the filesystem does not answer"
        ]
        assert library.cancel_scope.cancel_called  # so that it is taken back

    def test_look_that_is_stuck_does_not_keep_the_command(
        self, here: Here, monkeypatch: pytest.MonkeyPatch, held: Callable[..., Any]
    ) -> None:
        monkeypatch.setattr(_sentences, "obstacle", held)
        error = trio_mkdir.MkdirError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), "m/x")
        assert Library(error).run(here, monkeypatch, "-p", "--step-timeout", "0.01") == [
            "trio-mkdir: cannot create directory 'm/x': Not a directory"
        ]


class TestEndedEarly:
    def operands(self, front: Front, end: Callable[[], object]) -> Iterator[str]:
        """More than will ever be made: after the third, ``end``."""
        for number in itertools.count():
            if number == 3:
                end()
            yield f"made/{number}"

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_signal_takes_back_the_operand_in_progress_and_no_other(
        self, here: Here, tmp_path: Path, number: signal.Signals
    ) -> None:
        front = here.front
        operands = self.operands(front, lambda: front.send(number))
        status, out, err = here.run("-pv", operands=operands)
        assert status == 128 + number
        stands = {f"'made/{name}'" for name in os.listdir(tmp_path / "made")}
        told = [line.split()[-1] for line in out if " created " in line]
        taken_back = [line.split()[-1] for line in out if " removed " in line]
        assert {"'made'", *stands} == {*told} - {*taken_back}
        assert len(stands) >= 3
        unfinished = f"'made/{len(stands)}'"
        assert taken_back in ([], [unfinished])
        interrupted, *owed = err
        assert interrupted == (
            f"trio-mkdir: cannot create directory {unfinished}: interrupted by {number.name}"
        )
        # On a machine that has no time for it the undoing takes longer than it is waited for.
        assert all(line.endswith(f"process {os.getpid()} stays to undo it") for line in owed)

    def test_death_of_the_waiting_process_is_a_signal_too(self, here: Here) -> None:
        status, _, err = here.run("-p", operands=self.operands(here.front, here.front.die))
        assert status == 128 + signal.SIGKILL
        assert err[0].endswith("interrupted by SIGKILL")

    def test_time_that_is_up_is_status_124(self, here: Here, tmp_path: Path) -> None:
        status, out, err = here.run("--timeout", "0", "--json", "-p", "a/b", "c")
        assert status == 124
        assert err == ["trio-mkdir: cannot create directory 'a/b': not done within 0 s"]
        (report,) = map(json.loads, out)
        assert report["created"] == []
        assert report["error"]["message"] == "not done within 0 s"
        assert not (tmp_path / "a").exists()

    def test_time_that_is_left_changes_nothing(self, here: Here) -> None:
        assert here.run("--timeout", "inf", "a") == (0, [], [])

    def test_signal_between_operands_leaves_nothing_to_tell(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        maker = _work._Maker(
            _options.parse(["a"]), Plan(None, parents=False, umask=0), _voice.Voice("x")
        )
        maker.tell_unfinished("interrupted")
        assert capfd.readouterr() == ("", "")


class TestDebts:
    """What is done about system calls that do not return, told by a stand-in for the library."""

    def test_are_told_and_waited_for_once_the_front_is_free(
        self, here: Here, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waited = []

        async def wait_settled() -> None:
            waited.append(list(here.front.answers))

        debts = (
            trio_mkdir.PendingRollback("/m/a/b", "mkdir", "/m", 0.0),
            trio_mkdir.PendingRollback("/m/a", "undo", "/m", 0.0),
        )
        monkeypatch.setattr(trio_mkdir, "pending_rollbacks", lambda: debts)
        monkeypatch.setattr(trio_mkdir, "wait_settled", wait_settled)
        _, _, err = here.run("a")
        stays = f"'/m' does not answer; process {os.getpid()} stays to undo it"
        assert err == [
            f"trio-mkdir: '/m/a/b' may still appear: {stays}",
            f"trio-mkdir: '/m/a' still stands: {stays}",
        ]
        assert waited == [[(0, True)]]
