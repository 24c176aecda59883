"""Each errno is raised as the class that OSError itself would give it, and tells where and why."""

from __future__ import annotations

import copy
import errno
import os
import pickle

import pytest

import trio_mkdir
from trio_mkdir import (
    Made,
    MkdirError,
    Mount,
    MountStalled,
    MountStatistics,
    Report,
    RollbackError,
    RootCause,
    StepTimeout,
)
from trio_mkdir._errors import mkdir_error

MOUNT = Mount(1, 0, "8:1", "/", "/", "rw", "ext4", "/dev/sda1")


def error_of(number: int, path: str | bytes = "/a") -> MkdirError:
    return mkdir_error(number, path, RootCause.OTHER, MOUNT)


@pytest.mark.parametrize(
    "number",
    [pytest.param(number, id=name) for number, name in sorted(errno.errorcode.items())],
)
def test_an_errno_is_raised_as_the_class_that_belongs_to_it(number: int) -> None:
    plain = OSError(number, os.strerror(number), "/a")
    error = error_of(number)
    assert isinstance(error, MkdirError)
    assert isinstance(error, type(plain))
    assert (error.errno, error.strerror, error.filename) == (number, plain.strerror, "/a")
    assert str(error) == str(plain)


def test_every_class_is_public() -> None:
    for number in errno.errorcode:
        kind = type(error_of(number))
        assert getattr(trio_mkdir, kind.__name__) is kind


def test_a_path_of_bytes_stays_bytes() -> None:
    assert error_of(errno.EACCES, b"/a").filename == b"/a"


def test_it_knows_why_and_on_which_mount() -> None:
    error = mkdir_error(errno.ENOENT, "/a", RootCause.VANISHED, MOUNT)
    assert (error.root_cause, error.mount) == (RootCause.VANISHED, MOUNT)


def test_without_a_word_it_knows_nothing_more() -> None:
    error = MkdirError(errno.EIO, "Input/output error")
    assert error.root_cause is RootCause.OTHER
    assert error.mount is None
    assert error.report == Report("")


@pytest.mark.parametrize("kind", [StepTimeout, MountStalled])
def test_a_timer_is_told_from_the_kernels_etimedout(kind: type[MkdirError]) -> None:
    kernels = error_of(errno.ETIMEDOUT)
    timers = mkdir_error(errno.ETIMEDOUT, "/a", RootCause.TIMED_OUT, MOUNT, kind=kind)
    assert isinstance(timers, TimeoutError)
    assert isinstance(timers, kind)
    assert not isinstance(kernels, kind)
    assert timers.errno == errno.ETIMEDOUT


@pytest.mark.parametrize("kind", [StepTimeout, MountStalled])
def test_a_timer_without_a_word_knows_of_nothing_that_is_stuck(
    kind: type[StepTimeout | MountStalled],
) -> None:
    assert kind(errno.ETIMEDOUT, "Connection timed out").statistics.stuck == 0


def test_what_was_stuck_goes_with_its_error_to_another_process() -> None:
    error = StepTimeout(errno.ETIMEDOUT, "Connection timed out", "/a")
    error.statistics = MountStatistics(MOUNT, stuck=1, stuck_since=1.0)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert again.statistics == error.statistics


def test_notes_are_kept_in_order() -> None:
    error = error_of(errno.EIO)
    error.add_note("one")
    error.add_note("other")
    assert error.__notes__ == ["one", "other"]


def test_a_number_that_python_has_no_name_for_is_an_error_all_the_same() -> None:
    error = error_of(524)  # ENOTSUPP, which the kernel should keep to itself and does not
    assert type(error) is MkdirError
    assert error.errno == 524


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.ENOENT])
@pytest.mark.parametrize("duplicate", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])  # noqa: S301
def test_it_can_go_to_another_process(number: int, duplicate: object) -> None:
    error = mkdir_error(number, "/a", RootCause.BUSY, MOUNT)
    error.report = Report("/a", created=("/a",))
    error.add_note("a note")
    again = duplicate(error)  # type: ignore[operator]
    assert type(again) is type(error)
    assert (again.errno, again.filename) == (number, "/a")
    assert (again.root_cause, again.mount, again.report) == (RootCause.BUSY, MOUNT, error.report)
    assert again.__notes__ == ["a note"]


def test_a_record_of_what_happened_can_go_to_another_process() -> None:
    event = Made(1, 2.0, "/a")
    assert pickle.loads(pickle.dumps(event)) == event  # noqa: S301


def test_a_rollback_error_names_what_could_not_be_undone_and_why() -> None:
    cause = OSError(errno.EACCES, "Permission denied", "/a")
    error = RollbackError.of("/a", cause)
    assert error.undo == "/a"
    assert error.__cause__ is cause
    assert "'/a'" in str(error)
    assert "Permission denied" in str(error)
