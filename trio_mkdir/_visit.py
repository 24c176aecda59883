"""One visit to a worker thread: what the thread does, and what it does when nobody waits for it.

Plain synchronous code, written as a generator of the system calls that it is about to start, so
that the same code can run in a thread or, against a double that never blocks, without one.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final, Protocol, cast

import attrs

from ._events import LateAnswer
from ._handshake import Handshake, Phase
from ._walk import Failed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from ._handshake import Operation
    from ._transaction import Transaction
    from ._walk import Program
    from ._workers import Workers

SLICE: Final = 0.010
"""Seconds after which a step starts no further system call and lets its caller have a say."""


class Work(Protocol):
    """What a visit is for."""

    def do(self, visit: Visit) -> Generator[Operation, None, bool]:
        """Do it in the thread of ``visit``; False if there is more for another visit."""
        ...

    def close(self) -> None:
        """There is no other visit for it."""
        ...


@attrs.define(eq=False)
class Sliced:
    """A program that is carried out over as many visits as it takes."""

    program: Program
    otherwise: Callable[[], Program]
    """What comes at the end of each visit that did not finish it."""
    next: Operation | None = None
    """What the program was about to do when the slice was used up."""

    def do(self, visit: Visit) -> Generator[Operation, None, bool]:
        """Go on for one slice, or until the caller leaves."""
        program = self.program
        until = math.inf  # one system call there is in any case
        try:
            operation = self.next or next(program, None)
            while operation is not None:
                now = time.monotonic()
                if now >= until:
                    self.next = operation
                    break
                if not visit.admit(operation):
                    break
                if until == math.inf:
                    until = now + SLICE
                visit.workers.busy[visit] = now
                yield operation
                operation = next(program, None)  # here the system call happens
            else:
                return True
        except Exception:
            yield from visit.while_wanted(self.otherwise())
            raise
        yield from visit.while_wanted(self.otherwise())
        return False

    def close(self) -> None:
        """Give up what is under way, now and not when it is garbage."""
        self.program.close()


@attrs.define(eq=False)
class UndoOn:
    """What can be undone on one mount, as the work of a visit."""

    transaction: Transaction
    workers: Workers

    def do(self, visit: Visit) -> Generator[Operation, None, bool]:
        """Do it, whoever waits."""
        yield from visit.noted(self.transaction.undo(visit, self.workers))
        return True

    def close(self) -> None:
        """Whatever is left goes on as it would have."""


class Answered(Protocol):
    """Who knows the last answer, for the record of a late one."""

    @property
    def answer(self) -> int | None:
        """The errno of the last ``mkdir`` or ``rename``; None if there is none, or none yet."""
        ...


class Visit(Handshake):
    """Some work for one thread, and its handshake with the caller who sent it.

    ``walk`` knows the last answer of a ``mkdir``, if there is one.
    """

    _transaction: Transaction | None
    done = False
    """Whether its work is finished; otherwise another visit has to go on with it."""
    failure: BaseException | None = None
    """What stopped it."""
    sent = False
    """Whether a thread is on its way to it."""
    _counted = False
    """As stuck."""
    _pays = False
    """Whether what was in its way is its duty too."""
    _undone = False
    """Whether its thread, which came back to nobody, has undone what it can."""

    def __init__(
        self, transaction: Transaction, workers: Workers, work: Work, walk: Answered | None = None
    ) -> None:
        super().__init__(transaction.lock)
        self._transaction = transaction
        self.shared = transaction.shared
        self.workers = workers
        self.filesystem = transaction.filesystem
        self._work = work
        self._walk = walk

    @property
    def transaction(self) -> Transaction:
        """What it is for."""
        assert self._transaction is not None  # noqa: S101 - for the type checker
        return self._transaction

    def run(self) -> None:
        """Do everything at once, in a worker thread."""
        for _ in self.do():
            pass
        if self.workers.debts:
            for _ in self._owed():
                pass

    def program(self) -> Program:
        """The same for a double without threads."""
        yield from self.do()
        yield from self._owed()

    def _owed(self) -> Program:
        """What is owed on the mount: we may have had the worker that it waits for."""
        table = self.shared.workers
        while (debt := table.next_debt(self.workers)) is not None:
            yield from debt.do()

    def do(self) -> Program:
        """The work; then, if the caller has left, its undoing; then what waited for us."""
        if self.begin():
            yield from self._carry_out()

    def _carry_out(self) -> Program:
        try:
            self.done = yield from self._work.do(self)
        except BaseException as failure:  # noqa: BLE001, ASYNC103 - the caller raises it
            self.failure = failure
        yield from self._end()

    def begin(self) -> bool:
        """The thread is there; False if the caller has left already and nothing may be done."""
        begins = self.start()
        if begins:
            if self._pays:
                self.count_as_stuck()  # nobody has waited for it from the beginning
        elif self._counted and self.phase is Phase.CANCELLED:
            self._back()
            self.shared.workers.is_done(self)
        return begins

    def _end(self) -> Iterable[Operation]:
        """Answer the caller; what is there to do after that."""
        was_in = self.operation
        workers = self.workers
        if workers.busy.pop(self, None) is not None:
            failure = self.failure
            workers.last_errno = failure.number if isinstance(failure, Failed) else None
            workers.last_answer = time.monotonic()
        if self._counted:  # before the caller looks
            self._back()
        answered = self.finish()
        # The caller may have committed by now, and others may have waited for us all the same.
        if answered and self._transaction is None and not self._pays:
            return ()
        return self._after(was_in, answered=answered)

    def _after(self, was_in: Operation | None, *, answered: bool) -> Program:
        transaction = self._transaction
        try:
            if answered:
                if transaction is not None and transaction.waiting:
                    transaction.part()
            else:
                yield from self._undo(was_in)
                with self.lock:
                    self._undone = True
            if self._pays:
                if self._counted:  # as the caller may have given up meanwhile
                    self._back()
                self.shared.workers.is_done(self)
                yield from self._pay()  # for whoever was kept away by us until now
        finally:
            self.workers.busy.pop(self, None)

    def _undo(self, was_in: Operation | None) -> Program:
        """The caller is gone; what is done now can hang once more."""
        transaction = self.transaction
        self._work.close()
        if was_in is not None:
            name, path = was_in
            number = self._walk.answer if self._walk and name in {"mkdir", "rename"} else None
            transaction.recorder.tell(LateAnswer, path, name, number)
        yield from self.noted(transaction.undo(self, self._reach))
        yield from self._elsewhere(transaction)

    @property
    def _reach(self) -> Workers | None:
        """Where we may undo something: another mount may hang, and it has threads of its own."""
        return self.workers if self.filesystem.turn is None else None

    def _elsewhere(self, transaction: Transaction) -> Program:
        """Have others undo what we were in the way of on other mounts."""
        if self._reach is None:
            return
        table = self.shared.workers
        for workers in transaction.undoable_on() - {self.workers}:
            visit = Visit(transaction, workers, UndoOn(transaction, workers))
            transaction.join(visit)
            visit.count_as_stuck()
            if table.owe(workers, visit):
                continue
            while (debt := table.next_debt(workers)) is not None:  # no thread but this one
                yield from debt.do()

    def _pay(self) -> Program:
        """Undo what could not be undone while we were stuck below it, whosever it is."""
        undoing = cast("list[Transaction]", self.shared.debts.undoing())
        for transaction in undoing:
            payer = Handshake(transaction.lock)
            payer.start()
            if transaction.join(payer):
                for operation in transaction.undo(payer, self._reach):
                    payer.operation = operation
                    self._goes_in()
                    yield operation
                yield from self._elsewhere(transaction)

    def while_wanted(self, program: Program) -> Program:
        """Carry out ``program``, or as much of it as the caller stays for."""
        for operation in program:
            if not self.admit(operation):
                program.close()
                return
            self._goes_in()
            yield operation

    def noted(self, program: Program) -> Program:
        """Carry out ``program``, so that others know which system call this thread is in."""
        for operation in program:
            self.operation = operation
            self._goes_in()
            yield operation

    def _goes_in(self) -> None:
        """A system call begins now."""
        self.workers.busy[self] = time.monotonic()

    def _back(self) -> None:
        with self.lock:  # whoever counts us is done with it
            self._counted = False  # nobody else ever clears it
            self.shared.workers.is_back(self)

    def is_stuck_on(self, workers: Workers) -> bool:
        """Whether it is among those who are counted as stuck there."""
        return self._counted and self.workers is workers

    def count_as_stuck(self) -> None:
        """Nobody waits for this thread in time any more."""
        with self.lock:
            self._pays = True
            sent = self.sent and self.phase is Phase.WAITING
            late = self.phase is Phase.LATE and not self._undone
            working = sent or late or self.phase in {Phase.RUNNING, Phase.ABANDONED}
            if working and not self._counted:
                self._counted = True
                self.shared.workers.is_stuck(self)
