"""The first visit of a call: as a rule its only one, so nothing is made for it but what it needs.

What only trouble asks for, the walk, the undo log and the events, is made when trouble comes, by
whoever meets it first: the thread, or the caller who waits for it.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from ._atomic import AtomicWalk
from ._entries import Holder
from ._events import Made, Recorder
from ._finish import Finish
from ._handshake import Handshake
from ._items import Item
from ._preview import Preview
from ._transaction import Transaction
from ._visit import SLICE, Sliced, Visit
from ._walk import Walk

if TYPE_CHECKING:
    from ._os import Filesystem
    from ._paths import AnyPath, Target
    from ._policy import Policy
    from ._registry import Registry
    from ._visit import Work
    from ._walk import Program
    from ._workers import Workers


class FirstVisit(Visit, Holder):
    """Makes the target; with an undo log only if it meets somebody or something in its way.

    ``outer`` gets what was made when it succeeds; without any, success is final.
    """

    _transaction: Transaction | None = None
    _walk: Walk | None = None

    def __init__(
        self,
        target: Target,
        shared: Registry,
        workers: Workers,
        filesystem: Filesystem,
        policy: Policy,
        outer: tuple[Holder, ...],
    ) -> None:
        Handshake.__init__(self, threading.Lock())
        Holder.__init__(self)
        self.target = target
        self.shared = shared
        self.workers = workers
        self.filesystem = filesystem
        self.policy = policy
        self.outer = outer
        self.ambiguous: dict[AnyPath, int] = {}
        self.items: list[Item] = []
        """What was made, as long as there is no undo log."""

    @property
    def plain(self) -> bool:
        """Whether there is no undo log yet."""
        return self._transaction is None

    @property
    def transaction(self) -> Transaction:
        """The undo log of the call; made now, if there is none yet."""
        transaction = self._transaction
        if transaction is None:
            with self.lock:
                transaction = self._transaction or self._elaborate()
        return transaction

    def _elaborate(self) -> Transaction:
        recorder = Recorder(self.policy.observers)
        recorder.steps = int(self.sent)
        for item in self.items:
            recorder.told.append((Made, item.since, item.path, ()))
        transaction = Transaction(
            self.shared,
            self.workers,
            self.filesystem,
            recorder,
            self.policy,
            partial(self.target.prefixes, self.workers.mount.root_directory),
            self.outer,
        )
        transaction.take_over(self, self, self.items, self.ambiguous, sent=self.sent)
        walk = self._walk or self._set_out()
        walk.log = transaction
        self._work = self._everything(transaction, walk)
        self._transaction = transaction  # for everybody to see, so it comes last
        return transaction

    def _everything(self, transaction: Transaction, walk: Walk) -> Sliced:
        wanted = self.target.demands
        if wanted is None or not wanted.elaborate:
            program = transaction.forward(walk, provisional=bool(self.outer))
        else:
            finish = Finish(walk, wanted, self.target, transaction)
            program = finish.last(transaction.forward(finish, provisional=bool(self.outer)))
        return Sliced(program, transaction.enter)

    @property
    def walk(self) -> Walk:
        """Where it is on its way."""
        with self.lock:
            return self._walk or self._set_out()

    def _set_out(self) -> Walk:
        filesystem = self.filesystem
        walk = (
            AtomicWalk(self.target, filesystem, self)
            if isinstance(filesystem, Preview)
            else Walk(self.target, filesystem, self)
        )
        self._walk = walk
        if self.items:
            walk.reach(self.items[0].path)
        return walk

    def rest(self) -> Work:
        """What is left to do, from where the last visit stopped."""
        assert not self.plain  # noqa: S101
        return self._work

    def start_over(self) -> None:
        """What is left to do begins at where the walk is now, whatever was under way."""
        transaction = self.transaction
        self._work.close()
        self._work = self._everything(transaction, self.walk)

    def commit(self) -> None:
        """Nothing of this is undone any more."""
        if self._transaction is None:
            self.shared.tree.commit(self)
        else:
            self._transaction.commit()
        self.let_go()

    def let_go(self) -> None:
        """It has ended well: what knows each other would wait for the garbage collector."""
        if self._transaction is not None:
            del self._work
        self._walk = self._transaction = None

    def made(self, path: AnyPath, since: float) -> Item:
        """A ``mkdir`` that began at ``since`` has made ``path``."""
        with self.lock:
            transaction = self._transaction
            if transaction is None:
                item = Item(path, self.workers, made=True, since=since)
                self.items.append(item)
                return item
        return transaction.made(path, since)

    def run(self) -> None:
        """Go there, in a worker thread, and be done if that is all there is to do."""
        if self._transaction is not None:
            super().run()
            return
        if self.begin():
            self.done = self._go() and self.shared.tree.alone(self)
            for _ in self._end() if self.done else self._go_on():
                pass
        if self.workers.debts:
            for _ in self._owed():
                pass

    def _go(self) -> bool:
        """Go on for one slice; whether the path stands."""
        target = self.target
        path = target.path
        if not self.admit(("mkdir", path)):
            return False
        since = time.monotonic()
        self.workers.busy[self] = since  # `_end` takes it out again
        try:
            try:
                self.filesystem.mkdir(path, target.mode)
            except OSError as error:
                self.walk.refuse(path, error)
            else:
                with self.lock:
                    if self._walk is None:  # as a rule
                        self.items.append(Item(path, self.workers, made=True, since=since))
                        return True
                self._walk.make(path, since)
            return self._follow(self.walk, since + SLICE)
        except BaseException as failure:  # noqa: BLE001, ASYNC103 - the caller raises it
            self.failure = failure
            return False  # noqa: ASYNC104 - as above

    def _follow(self, walk: Walk, until: float) -> bool:
        while (operation := walk.operation) is not None:
            if time.monotonic() >= until or not self.admit(operation):
                return False
            walk.go_on()
        return True

    def _go_on(self) -> Program:
        """As every other visit does."""
        transaction = self.transaction
        if self.failure is None and self.walk.arrived:
            yield from self._carry_out()  # we are not alone
        else:
            yield from self.while_wanted(transaction.enter())
            yield from self._end()
