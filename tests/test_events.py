"""What happened is told in order, to observers, to the log and in the report."""

from __future__ import annotations

import errno
import logging

import attrs
import pytest

from trio_mkdir import (
    DebtPaid,
    DebtTaken,
    Event,
    Kept,
    LateAnswer,
    Made,
    PendingRollback,
    ReliedOn,
    Removed,
    Report,
    RetryScheduled,
    RootCause,
    StepAnswered,
    StepStarted,
    StepTimedOut,
)
from trio_mkdir._events import Recorder

DEBT = PendingRollback("/here/a", "mkdir", "/", 1.0)


def shortened(path: str | bytes) -> str | bytes:
    assert isinstance(path, str)
    return path.removeprefix("/here/")


def report(recorder: Recorder) -> Report:
    return recorder.report("a/b", shortened, 1.5)


def tell_everything(recorder: Recorder) -> None:
    recorder.step("/here/a/b")
    recorder.tell(Made, "/here/a")
    recorder.tell(ReliedOn, "/here")
    recorder.tell(StepTimedOut, "/here/a/b", 5.0)
    recorder.tell(RetryScheduled, "/here/a/b", RootCause.BUSY, errno.EBUSY, 0.01)
    recorder.tell(StepAnswered, "/here/a/b", errno.EBUSY)
    recorder.step("/here/a/b")
    recorder.tell(Made, "/here/a/b")
    recorder.tell(StepAnswered, "/here/a/b", None)
    recorder.tell(Removed, "/here/a/b")
    recorder.tell(Kept, "/here/a", "it is not empty", None)
    recorder.tell(DebtTaken, "/here/a", DEBT)
    recorder.tell(LateAnswer, "/here/a", "mkdir", None)
    recorder.tell(DebtPaid, "/here/a")


# Observers


def test_observers_get_each_event_as_it_happens_and_in_order() -> None:
    seen: list[Event] = []
    recorder = Recorder([seen.append])
    recorder.tell(Made, "/a")
    assert [type(event) for event in seen] == [Made]
    recorder.tell(Removed, "/a")
    assert [(type(event), event.path) for event in seen] == [(Made, "/a"), (Removed, "/a")]
    assert seen[0].time <= seen[1].time


def test_observers_get_every_kind_of_event() -> None:
    seen: list[Event] = []
    tell_everything(Recorder([seen.append]))
    assert {type(event) for event in seen} == {
        StepStarted,
        StepAnswered,
        StepTimedOut,
        RetryScheduled,
        Made,
        ReliedOn,
        Removed,
        Kept,
        DebtTaken,
        DebtPaid,
        LateAnswer,
    }


def test_all_observers_get_the_same_events_of_one_call() -> None:
    one: list[Event] = []
    other: list[Event] = []
    recorder = Recorder([one.append, other.append])
    tell_everything(recorder)
    assert one == other
    assert {event.call for event in one} == {recorder.call}


def test_each_call_has_a_number_of_its_own() -> None:
    assert len({Recorder(()).call for _ in range(10)}) == 10


def test_an_observer_that_fails_is_logged_and_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[Event] = []

    def broken(event: Event) -> None:
        raise ValueError("broken")

    recorder = Recorder([broken, seen.append])
    recorder.tell(Made, "/a")
    assert [type(event) for event in seen] == [Made]
    assert report(recorder).created == ("/a",)
    (record,) = [each for each in caplog.records if each.exc_info]
    assert record.name == "trio_mkdir"
    assert "broken" in record.getMessage()


def test_an_event_cannot_be_changed() -> None:
    event = Made(1, 2.0, "/a")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        event.path = "/b"  # type: ignore[misc]


# The log


@pytest.mark.parametrize(
    ("kind", "details", "level"),
    [
        (DebtTaken, (DEBT,), logging.WARNING),
        (Kept, ("it is not empty", None), logging.WARNING),
        (DebtPaid, (), logging.INFO),
        (LateAnswer, ("mkdir", 28), logging.INFO),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_an_operator_has_to_know_is_logged(
    caplog: pytest.LogCaptureFixture, kind: type[Event], details: tuple[object, ...], level: int
) -> None:
    with caplog.at_level(logging.INFO, "trio_mkdir"):
        Recorder(()).tell(kind, "/a", *details)
    (record,) = caplog.records
    assert record.levelno == level
    assert record.getMessage().startswith(f"{kind.__name__} '/a'")


def test_everything_else_is_for_debugging(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "trio_mkdir"):
        recorder = Recorder(())
        recorder.step("/a")
        recorder.tell(Made, "/a")
        recorder.tell(Removed, "/a")
        recorder.tell(StepAnswered, "/a", None)
    assert caplog.records == []


def test_for_debugging_everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "trio_mkdir"):
        recorder = Recorder(())
        tell_everything(recorder)
    assert len(caplog.records) == 14
    assert caplog.records[0].getMessage() == "StepStarted '/here/a/b'"


def test_a_log_record_has_the_fields_of_the_event(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(())
    recorder.tell(Kept, b"/caf\xe9", "it is not empty", None)
    (record,) = caplog.records
    fields = vars(record)
    assert fields["trio_mkdir_path"] == b"/caf\xe9"
    assert fields["trio_mkdir_why"] == "it is not empty"
    assert fields["trio_mkdir_call"] == recorder.call
    assert record.getMessage() == r"Kept '/caf\udce9' (why='it is not empty', errno=None)"


def test_a_log_that_is_switched_off_gets_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL, "trio_mkdir"):
        Recorder(()).tell(Kept, "/a", "it is not empty", None)
    assert caplog.records == []


# The report


def test_a_call_to_which_nothing_happened_has_an_empty_report() -> None:
    recorder = Recorder(())
    recorder.step("/here/a/b")
    recorder.tell(StepAnswered, "/here/a/b", None)
    assert report(recorder) == Report("a/b", elapsed=1.5, steps=1)


def test_a_call_that_only_made_directories_reports_them_in_order() -> None:
    recorder = Recorder(())
    recorder.step("/here/a/b")
    recorder.tell(Made, "/here/a")
    recorder.tell(Made, "/here/a/b")
    assert report(recorder) == Report("a/b", created=("a", "a/b"), elapsed=1.5, steps=1)


@pytest.mark.parametrize("observed", [False, True])
def test_the_report_tells_all_in_the_form_in_which_the_caller_wrote_it(observed: bool) -> None:
    recorder = Recorder([lambda event: None] if observed else ())
    tell_everything(recorder)
    told = report(recorder)
    assert told.path == "a/b"
    assert told.created == ("a", "a/b")
    assert told.relied_on == ("/here",)
    assert told.removed == ("a/b",)
    assert [(kept.path, kept.why) for kept in told.kept] == [("a", "it is not empty")]
    assert told.pending == (DEBT,)
    assert (told.steps, told.elapsed) == (2, 1.5)
    (retry,) = told.retries
    assert (retry.path, retry.cause, retry.errno, retry.delay) == (
        "a/b",
        RootCause.BUSY,
        errno.EBUSY,
        0.01,
    )


def test_a_report_is_a_value() -> None:
    recorder = Recorder(())
    tell_everything(recorder)
    assert report(recorder) == report(recorder)
    assert hash(report(recorder)) == hash(report(recorder))


def test_a_report_cannot_be_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Report("a").created = ("b",)  # type: ignore[misc]


def test_every_record_says_what_it_is() -> None:
    public = [DebtPaid, DebtTaken, Event, Kept, LateAnswer, Made, PendingRollback, ReliedOn]
    public += [Removed, Report, RetryScheduled, StepAnswered, StepStarted, StepTimedOut]
    assert [kind.__name__ for kind in public if not kind.__doc__] == []
