"""The two processes: the one that the user started, and its child that works.

The front passes signals on and ends with the status that the child answers.
"""

# Imported is what the path taken needs, when it needs it: start-up is most of the command's time.
# ruff: noqa: PLC0415

from __future__ import annotations

import contextlib
import os
import signal
import sys

from ._voice import FAILED

TYPE_CHECKING = False  # type checkers know the name; importing typing for it would cost time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._voice import Voice

SIGNALLED = 128  # plus the signal's number, as shells report it
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 0.5  # seconds to wait for a child that has nothing more to do


class Front:
    """The process that the user started, as its child sees it."""

    def __init__(
        self,
        orders: int,
        answers: int,
        heeded: Iterable[signal.Signals] = (),
        outputs: Iterable[int] = (0, 1, 2),
    ) -> None:
        self.orders = orders
        """Readable when a signal has come or the front is gone."""
        self._answers = answers
        self._heeded = heeded
        self._outputs = outputs

    def signal(self) -> int:
        """The signal that came; SIGKILL if the front ended without a word."""
        return (os.read(self.orders, 1) or bytes([signal.SIGKILL]))[0]

    def answer(self, status: int, *, stays: bool) -> None:
        """Have the front end with ``status``; at once if this process ``stays``."""
        # Whoever reads the command's output to its end has it now, whatever becomes of us.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in self._outputs:
            os.dup2(nowhere, descriptor)
        os.close(nowhere)
        for number in self._heeded:
            signal.signal(number, signal.SIG_DFL)  # nobody passes them on any more
        with contextlib.suppress(BrokenPipeError):
            os.write(self._answers, bytes([status, stays]))


def in_child(job: Callable[[Front], None], voice: Voice, fork: Callable[[], int] = os.fork) -> int:
    """Do ``job`` in a child process that gets this one's signals; return the status it answers."""
    open_standard_descriptors()
    orders, to_child = os.pipe()
    answers, to_front = os.pipe()
    heeded = pass_on_signals(to_child)  # before there is a child, so that none is lost
    try:
        child = fork()
    except OSError as error:
        voice.complain(f"cannot fork: {error.strerror}")
        return FAILED
    if child == 0:  # pragma: no cover - measured in the parent only
        # A terminal sends its signals to both. They count once, when the front has passed them on.
        for number in heeded:
            signal.signal(number, signal.SIG_IGN)
        os.close(to_child)
        os.close(answers)
        do_job(job, Front(orders, to_front, heeded))
        os._exit(0)
    os.close(orders)
    os.close(to_front)
    return await_answer(child, answers)


def open_standard_descriptors() -> None:
    """Open those of 0, 1 and 2 that were closed, or a pipe would get their number."""
    descriptor = -1
    while descriptor <= 2:
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)


def pass_on_signals(to_child: int) -> list[signal.Signals]:
    """Have ending signals written to ``to_child``; at the second one this process leaves."""
    passed_on: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        if passed_on:
            os._exit(SIGNALLED + number)  # pragma: no cover - nothing is measured after it
        passed_on.append(number)
        with contextlib.suppress(OSError):  # it has ended meanwhile
            os.write(to_child, bytes([number]))

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, no child can be waited for
    # What is ignored, as under nohup or in a script's background, stays so.
    heeded = [one for one in ENDING_SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, pass_on)
    return heeded


def do_job(job: Callable[[Front], None], front: Front) -> None:
    """Do it; a bug in it is an answer too."""
    try:
        job(front)
    except BaseException as bug:  # noqa: ASYNC103, BLE001 - nobody is left to raise it to
        sys.excepthook(type(bug), bug, bug.__traceback__)
        front.answer(FAILED, stays=False)


def await_answer(child: int, answers: int) -> int:
    """The status that ``child`` answers or, if it was killed, that of a killed command."""
    answer = os.read(answers, 2)
    if not answer:
        _, ended = os.waitpid(child, 0)
        return SIGNALLED + os.WTERMSIG(ended) if os.WIFSIGNALED(ended) else FAILED
    status, stays = answer
    if not stays:
        _wait_for_end(child, answers)
    return status


def _wait_for_end(child: int, answers: int) -> None:
    import select

    # It ends at once, unless a thread of it is stuck in a system call that owes nothing.
    if select.select([answers], [], [], GRACE)[0]:
        os.waitpid(child, 0)
