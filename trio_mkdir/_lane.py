"""One of the tasks that carry out a plan: bundle after bundle, many directories in each visit."""

from __future__ import annotations

import errno
import itertools
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from ._attempts import Attempts
from ._causes import RootCause
from ._entries import BeingRemoved
from ._handshake import Phase
from ._pace import median
from ._paths import parent_of
from ._visit import SLICE, Sliced, Visit
from ._walk import Failed, Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ._errors import MkdirError
    from ._items import Item
    from ._mounts import Mount
    from ._os import Filesystem
    from ._paths import AnyPath, Target
    from ._plan import Bundle, Plan
    from ._policy import Policy
    from ._transaction import Transaction
    from ._visit import Work
    from ._walk import Program
    from ._workers import Workers


_LAST: Final = 32
"""Directories from which is told how long one takes."""


class Whole(Protocol):
    """The call for many paths, as far as one of its tasks has to know it."""

    plan: Plan
    policy: Policy
    filesystem: Filesystem
    transaction: Transaction
    mine: set[AnyPath]
    """What it has made and not met since."""
    troubled: bool
    """Whether something did not go well, so that the mount table has to be looked at."""
    provisional: bool
    """Whether what it made is not final when it succeeds."""
    sprints: bool
    """Whether nobody wants to know of each system call."""
    on_mount: AnyPath | None
    """Where what it makes has to be mounted; None if that is all the same."""

    def as_given(self, path: AnyPath) -> AnyPath:
        """``path`` as the caller wrote it."""
        ...

    def target(self, path: AnyPath) -> Target:
        """``path`` alone."""
        ...

    def mode(self, path: AnyPath) -> int:
        """That of ``path``."""
        ...

    def passes_over(self, path: AnyPath) -> bool:
        """Whether ``path`` may be there already and need not be looked at, as more is below it."""
        ...

    def workers_in(self, directory: AnyPath) -> Workers:
        """By whose worker threads something is made in ``directory``."""
        ...

    def prepare(self, path: AnyPath) -> Program:
        """Look up whatever has to be known before anything is made at ``path``."""
        ...

    def last(self, forward: Program) -> Program:
        """Go ``forward``, and do what has to come after that."""
        ...

    def check_on_mount(self, paths: Iterable[AnyPath], *, but_above: bool = False) -> None:
        """Raise unless ``paths`` lie where they have to lie, ``but_above`` it those on the way."""
        ...

    def finish(self, only: Workers | None) -> Program:
        """Do what is asked for to what was made, on one mount or on any, and is not finished."""
        ...

    def finish_hidden(self, made: Sequence[Item]) -> Program:
        """Do what is asked for to one tree, before it appears."""
        ...

    def gone(self) -> tuple[Mount, Mount] | None:
        """A mount that is not where it was, and the one that is there now."""
        ...

    def stuck(self, workers: Workers) -> int:
        """How many of those who are stuck on a mount work for this call."""
        ...


def _nothing() -> Program:
    """What comes at the end of a visit: everything is entered at once when all of it stands.

    Or when it is undone. After every visit it would be looked at again and again.
    """
    yield from ()


class Lane(Attempts):
    """Works for a call, one visit after the other.

    As long as directories can be made, it makes them right away. Whatever is refused becomes a
    walk, which knows what to do about it.
    """

    def __init__(self, call: Whole) -> None:
        self._call = call
        self._plan = call.plan
        self.policy = call.policy
        self.filesystem = call.filesystem
        self.mine = call.mine
        self.count = 0
        """How many directories it has reached."""
        self.each = 0.0
        """Seconds for one of those that it reached last."""
        self._walk: Walk | None = None
        self._bundle: Bundle | None = None
        self._place: AnyPath = ""
        self._finishing: Workers | None = None
        self.work = Sliced(self.run(), _nothing)

    @property
    def transaction(self) -> Transaction:
        """The undo log of the call."""
        return self._call.transaction

    @property
    def plain(self) -> bool:
        """Whether there is no undo log yet."""
        return False

    @property
    def place(self) -> AnyPath:
        """The path that it is about, absolute."""
        return self._place

    @property
    def progress(self) -> int:
        """More than before, if it has got on."""
        return self.count

    @property
    def others_stuck(self) -> int:
        """How many workers are stuck on its mount, but for those of the same call."""
        return self.workers.stuck and self.workers.stuck - self._call.stuck(self.workers)

    def as_given(self, path: AnyPath) -> AnyPath:
        """``path`` as the caller wrote it."""
        return self._call.as_given(path)

    @property
    def answer(self) -> int | None:
        """The errno of the last ``mkdir``, None if it succeeded or has not returned."""
        return self._walk.answer if self._walk is not None else None

    # For the walks

    @property
    def ambiguous(self) -> dict[AnyPath, int]:
        """Where an attempt was answered with an errno that leaves open whether it worked."""
        return self.transaction.ambiguous

    def made(self, path: AnyPath, since: float) -> Item:
        """A ``mkdir`` that began at ``since`` has made ``path``."""
        self.mine.add(path)
        return self.transaction.made(path, since, self.workers)

    # Steps

    async def carry_out(self, bundle: Bundle, seconds: float = SLICE) -> None:
        """Make ``bundle`` and what comes after it, for so many ``seconds``."""
        self._bundle = bundle
        self.retries = None  # a call for many may take long; each piece of it is tried for itself
        self._go_to(bundle.todo[-1], bundle.workers)
        await self._do(lambda: self._make(seconds))

    async def prepare(self, path: AnyPath) -> None:
        """Nothing stands yet: see to what has to be known before anything is made at ``path``."""
        self._go_to(path)
        await self._do(lambda: self._call.prepare(path))

    async def finish(self, directory: AnyPath, workers: Workers) -> None:
        """Everything stands: see to what else is asked for on the mount of ``directory``."""
        self._go_to(directory, workers)
        self._finishing = workers
        await self._do(self.run)

    async def settle(self) -> None:
        """Everything stands: tell the other calls, and see to it that it stays."""
        paths = self._plan.paths()
        if not paths:
            return  # noqa: ASYNC910
        self._go_to(paths[0])
        provisional = self._call.provisional
        self.mine.update(self.transaction.batched())
        forward = partial(self.transaction.forward, self, provisional=provisional)
        await self._do(lambda: self._call.last(forward()))

    def _go_to(self, path: AnyPath, workers: Workers | None = None) -> None:
        self._place = path
        self.workers = workers or self._call.workers_in(path)
        self.mount = self.workers.mount

    async def _do(self, program: Callable[[], Program]) -> None:
        self._program = program
        self.work = Sliced(program(), _nothing)
        while True:
            try:
                if await self.step(self.another(self.work)):
                    break
            except Failed as failure:
                await self.try_again(failure)
            except BeingRemoved as removal:
                await self.wait_removed(removal)
        if self._call.troubled:
            self.check_mount(Failed(errno.ENODEV, self.place))

    def check_mount(self, failure: Failed, kind: type[MkdirError] | None = None) -> None:
        """After trouble, never go on where a mount is gone on which the call was."""
        self._call.troubled = True
        gone = self._call.gone()
        if gone is None:
            # What is made in a directory is on its mount, though something may be mounted there.
            mounts = [self.filesystem.mount(path) for path in self._where()]
            if not any(mount == self.mount or mount.is_mounted_by(self.mount) for mount in mounts):
                gone = self.mount, mounts[-1]
        if gone is not None:
            self.mount, now = gone
            raise self.disconnected(failure, now, kind) from None

    def _where(self) -> Iterator[AnyPath]:
        path = self._place
        yield path
        yield parent_of(path) or path

    def leave(self) -> None:
        """Nothing more is made; a thread that is in it learns so."""
        visit = self.unanswered
        if visit is None or visit.leave() in {Phase.ANSWERED, Phase.CANCELLED}:
            self.work.close()  # no thread is in it

    def another(self, work: Work) -> Visit:
        """A visit to do ``work``."""
        self._visit = Visit(self.transaction, self.workers, work, self)
        return self._visit

    def begin_anew(self, failure: Failed | None = None) -> None:
        """Whatever was under way is over, because of ``failure``."""
        walk = self._walk
        if failure is not None and walk is not None and not walk.arrived:
            if failure.undoes(walk):
                walk.restart()
        elif failure is not None and failure.cause is RootCause.VANISHED:
            self._set_out(failure.path)
        self.work.close()
        self.work = Sliced(self._program(), _nothing)

    # In the thread

    def _set_out(self, path: AnyPath) -> Walk:
        self._walk = walk = Walk(self._call.target(path), self.filesystem, self)
        walk.mine = self.mine
        return walk

    def run(self) -> Program:
        """Go on with what was refused, and finish what is made."""
        yield from self._go_on()
        yield from self._call.finish(self._finishing)

    def _go_on(self) -> Program:
        if self._walk is not None:
            yield from self._walk.run()

    def _make(self, seconds: float) -> Program:
        self.each = 0.0
        began, before = time.monotonic(), self.count
        yield from self._make_until(began + seconds)
        if not self.each:  # it made none in one go
            self.each = (time.monotonic() - began) / max(1, self.count - before)

    def _make_until(self, until: float) -> Program:
        plan, bundle = self._plan, self._bundle
        while bundle is not None:
            self._bundle = bundle
            if self._call.on_mount is not None:
                above = [parent_of(path) or path for path in bundle.todo[-1:]]
                self._call.check_on_mount(above, but_above=True)
            yield from self._fill(bundle, until)
            self._bundle = None
            if time.monotonic() >= until:
                if bundle.todo:
                    plan.put_back(bundle)
                return
            bundle = plan.take(self.workers)

    def _refused(self, bundle: Bundle, path: AnyPath, error: OSError) -> None:
        """A ``mkdir`` was answered with ``error``: a walk goes on from there, here or elsewhere."""
        if error.errno == errno.EEXIST and self._is_mount_point(path):
            # If that hangs, it is to have its own workers only.
            self._plan.hand_over(bundle, self._call.workers_in(path))
        else:
            self._set_out(path).refuse(path, error)

    def _is_mount_point(self, path: AnyPath) -> bool:
        """Whether another mount begins there, and the directory above is on ours as before."""
        mount = self.filesystem.mount
        return mount(path) != self.mount == mount(parent_of(path) or path)

    def _fill(self, bundle: Bundle, until: float) -> Program:
        """Make what is to be made in one directory, as far as the time goes."""
        call, plan, mkdir = self._call, self._plan, self.filesystem.mkdir
        while bundle.todo:
            path = self._place = bundle.todo[-1]
            if self._walk is None and bundle.is_flat and call.sprints:
                error = self._sprint(bundle, until)
                if error is None:
                    if bundle.todo and time.monotonic() < until:
                        yield "mkdir", bundle.todo[-1]  # nobody waits: this is not admitted
                    return
                path = self._place = bundle.todo[-1]
                if error.errno == errno.EEXIST:
                    bundle.is_flat = False  # the others may be there, too
                self._refused(bundle, path, error)
            elif self._walk is None and bundle.stood and call.passes_over(path):
                # So will this one: what is below tells, and if not, its walk makes it.
                plan.reached(path, bundle)
                continue
            elif self._walk is None:
                yield "mkdir", path
                since = time.monotonic()
                try:
                    mkdir(path, call.mode(path))
                except OSError as error:
                    # A file in the way of what is below shows there, as ENOTDIR.
                    if error.errno == errno.EEXIST and call.passes_over(path):
                        bundle.stood = True
                        self._reached(path, bundle)
                    else:
                        self._refused(bundle, path, error)
                else:
                    item = self.made(path, since)
                    self._reached(path, bundle)  # before the look: it is not made twice
                    if plan.is_above(path):
                        yield "lstat", path
                        self._identify(item)
            if self._walk is not None:
                yield from self._go_on()
                self._walk = None
                self._reached(path, bundle)
            if time.monotonic() >= until:
                return

    def _reached(self, path: AnyPath, bundle: Bundle) -> None:
        self.count += 1
        self._plan.reached(path, bundle)

    def _sprint(self, bundle: Bundle, until: float) -> OSError | None:
        """Make what is to be made in one directory as fast as can be; what has stopped it."""
        todo, admit, clock = bundle.todo, self._visit.admit, time.monotonic
        mkdir, mode = self.filesystem.mkdir, self._call.mode(todo[-1])
        batch = self.transaction.begin_batch(self.workers)
        add, done = batch.made.append, todo.pop
        before, now = len(todo), clock()
        try:
            while todo and now < until and admit(("mkdir", path := todo[-1])):
                mkdir(path, mode)
                add((done(), now))
                now = clock()
        except OSError as error:
            return error
        finally:
            batch.close()
            last = [since for _, since in batch.made[-_LAST:]]
            if last:
                self.each = median(b - a for a, b in itertools.pairwise([*last, now]))
            self.count += before - len(todo)
            self._plan.reached_many(bundle)
        return None

    def _identify(self, item: Item) -> None:
        with suppress(OSError):  # then it is looked at when it is undone
            status = self.filesystem.lstat(item.path)
            item.identity = status.st_dev, status.st_ino
