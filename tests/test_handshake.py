"""Between a caller who may leave and a thread that may be late, one lock decides who was first."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from trio_mkdir._handshake import Handshake, Phase


def handshake() -> Handshake:
    return Handshake(threading.Lock())


def test_the_caller_has_the_result_of_a_thread_that_is_done_in_time() -> None:
    shake = handshake()
    phases = [shake.phase]
    assert shake.start()
    phases.append(shake.phase)
    assert shake.finish()
    phases.append(shake.phase)
    assert phases == [Phase.WAITING, Phase.RUNNING, Phase.ANSWERED]
    assert shake.answered


def test_a_thread_that_comes_after_the_caller_has_left_does_nothing() -> None:
    shake = handshake()
    assert shake.leave() is Phase.CANCELLED
    assert not shake.start()
    assert shake.phase is Phase.CANCELLED
    assert not shake.started


def test_a_thread_that_is_done_after_the_caller_has_left_cleans_up() -> None:
    shake = handshake()
    shake.start()
    assert shake.leave() is Phase.ABANDONED
    assert not shake.finish()
    assert shake.phase is Phase.LATE
    assert not shake.answered


def test_a_caller_who_leaves_after_the_thread_is_done_has_the_result() -> None:
    shake = handshake()
    shake.start()
    shake.finish()
    assert shake.leave() is Phase.ANSWERED
    assert shake.answered


def test_leaving_twice_is_leaving_once() -> None:
    for happens in ([], [Handshake.start], [Handshake.start, Handshake.finish]):
        shake = handshake()
        for transition in happens:
            transition(shake)
        assert shake.leave() is shake.leave()


def test_leaving_after_a_late_thread_changes_nothing() -> None:
    shake = handshake()
    shake.start()
    shake.leave()
    shake.finish()
    assert shake.leave() is Phase.LATE


def test_only_one_thread_can_start() -> None:
    shake = handshake()
    assert shake.start()
    assert not shake.start()
    shake.finish()
    assert not shake.start()


@pytest.mark.parametrize(
    ("happens", "started", "answered"),
    [
        ([], False, False),
        ([Handshake.start], True, False),
        ([Handshake.start, Handshake.finish], True, True),
        ([Handshake.leave], False, False),
        ([Handshake.start, Handshake.leave], True, False),
        ([Handshake.start, Handshake.leave, Handshake.finish], True, False),
    ],
    ids=["waiting", "running", "answered", "cancelled", "abandoned", "late"],
)
def test_what_is_asked_of_each_phase(
    happens: list[Callable[[Handshake], object]], started: bool, answered: bool
) -> None:
    shake = handshake()
    for transition in happens:
        transition(shake)
    assert (shake.started, shake.answered) == (started, answered)


# System calls


def test_a_system_call_is_noted_before_it_starts() -> None:
    shake = handshake()
    shake.start()
    assert shake.admit(("mkdir", "/a"))
    assert shake.operation == ("mkdir", "/a")
    assert shake.admit(("mkdir", "/a/b"))
    assert shake.operation == ("mkdir", "/a/b")


def test_after_the_caller_has_left_no_system_call_starts() -> None:
    shake = handshake()
    shake.start()
    shake.admit(("mkdir", "/a"))
    shake.leave()
    assert not shake.admit(("mkdir", "/a/b"))
    assert shake.operation == ("mkdir", "/a")


def test_a_thread_that_is_done_in_time_is_in_no_system_call() -> None:
    shake = handshake()
    shake.start()
    shake.admit(("mkdir", "/a"))
    shake.finish()
    assert shake.operation is None


def test_a_late_thread_can_still_tell_what_it_was_stuck_in() -> None:
    shake = handshake()
    shake.start()
    shake.admit(("mkdir", "/a"))
    shake.leave()
    shake.finish()
    assert shake.operation == ("mkdir", "/a")


# Waking who waits


def test_who_waits_is_woken_once_when_the_thread_is_done() -> None:
    shake = handshake()
    shake.start()
    woken: list[Phase] = []
    assert shake.wake_with(lambda: woken.append(shake.phase))
    assert woken == []
    shake.finish()
    assert woken == [Phase.ANSWERED]


def test_who_waits_for_a_thread_that_has_not_begun_is_woken_too() -> None:
    # The step's time can be up before the new thread gets to run for the first time.
    shake = handshake()
    woken: list[Phase] = []
    assert shake.wake_with(lambda: woken.append(shake.phase))
    shake.start()
    shake.finish()
    assert woken == [Phase.ANSWERED]


def test_nobody_waits_for_a_thread_that_is_done() -> None:
    shake = handshake()
    shake.start()
    shake.finish()
    assert not shake.wake_with(pytest.fail)


def test_who_has_left_is_not_woken() -> None:
    shake = handshake()
    shake.start()
    shake.wake_with(lambda: pytest.fail("woken"))
    shake.leave()
    shake.finish()
    assert not shake.wake_with(pytest.fail)


def test_only_the_last_who_waits_is_woken() -> None:
    # One task waits for a visit; when its time is up it waits again with a new event.
    shake = handshake()
    shake.start()
    woken: list[str] = []
    shake.wake_with(lambda: woken.append("first"))
    shake.wake_with(lambda: woken.append("second"))
    shake.finish()
    assert woken == ["second"]


def test_the_waker_may_use_the_lock() -> None:
    lock = threading.Lock()
    shake = Handshake(lock)
    shake.start()
    free: list[bool] = []
    shake.wake_with(lambda: free.append(not lock.locked()))
    shake.finish()
    assert free == [True]


# Races


def race(*racers: Callable[[], object]) -> list[object]:
    """Let each racer run in a thread of its own, all at once; what they returned."""
    results: list[object] = [None] * len(racers)
    ready = threading.Barrier(len(racers))

    def run(number: int, racer: Callable[[], object]) -> None:
        ready.wait()
        results[number] = racer()

    threads = [threading.Thread(target=run, args=item) for item in enumerate(racers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_caller_and_thread_always_agree_on_who_was_first() -> None:
    for _ in range(300):
        shake = handshake()
        shake.start()
        left, finished = race(shake.leave, shake.finish)
        if finished:
            assert left is Phase.ANSWERED
            assert shake.phase is Phase.ANSWERED
        else:
            assert left is Phase.ABANDONED
            assert shake.phase is Phase.LATE


def test_a_thread_either_starts_or_is_cancelled() -> None:
    for _ in range(300):
        shake = handshake()
        left, started = race(shake.leave, shake.start)
        assert left is (Phase.ABANDONED if started else Phase.CANCELLED)


def test_of_many_threads_one_starts() -> None:
    for _ in range(100):
        shake = handshake()
        assert race(*[shake.start] * 4).count(True) == 1


def test_who_waits_is_woken_or_told_that_there_is_nothing_to_wait_for() -> None:
    for _ in range(300):
        shake = handshake()
        shake.start()
        woken = threading.Event()

        def wait(shake: Handshake = shake, woken: threading.Event = woken) -> bool:
            return shake.wake_with(woken.set)

        waits, _ = race(wait, shake.finish)
        assert woken.is_set() is waits


def test_a_lock_that_somebody_holds_keeps_every_transition_waiting() -> None:
    lock = threading.Lock()
    shake = Handshake(lock)
    shake.start()
    done = threading.Event()

    def finish() -> None:
        shake.finish()
        done.set()

    with lock:
        thread = threading.Thread(target=finish)
        thread.start()
        assert not shake.answered
    thread.join()
    assert done.is_set()
    assert shake.answered
