"""What is missing, and in which order it is made.

The leaf is tried first: on the way to a new directory in an old one that is the only system call.
ENOENT means that the parent is missing too, so the walk climbs until something stands or can be
made, and then descends, making what is missing. Nothing is looked up beforehand: an answer of
``mkdir`` is never out of date.

A walk tells the name and path of each system call right before it starts it. Whoever drives it can
stop there, for a moment or for good. So does a program, which is a generator of what it tells.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, TypeAlias

from ._causes import AMBIGUOUS, PASSING, RootCause, root_cause
from ._paths import is_dot, parent_of, without_slashes

if TYPE_CHECKING:
    from ._entries import Identity
    from ._handshake import Operation
    from ._os import Filesystem
    from ._paths import AnyPath, Target

Program: TypeAlias = "Generator[Operation, None, None]"


class Item(Protocol):
    """What is kept of a directory that was made."""

    path: AnyPath
    identity: Identity | None


class Log(Protocol):
    """Where a walk writes down what it has done."""

    @property
    def ambiguous(self) -> dict[AnyPath, int]:
        """Where an attempt was answered with an errno that leaves open whether it worked."""
        ...

    def made(self, path: AnyPath, since: float) -> Item:
        """A ``mkdir`` that began at ``since`` has made ``path``."""
        ...


class Failed(Exception):
    """A system call's answer that the policy has to decide about."""

    def __init__(
        self,
        number: int,
        path: AnyPath,
        cause: RootCause | None = None,
        note: str = "",
        *,
        operation: str = "mkdir",
    ) -> None:
        super().__init__(number, path)
        self.number = number
        self.path = path
        self.cause = root_cause(number) if cause is None else cause
        self.note = note
        self.operation = operation

    def undoes(self, walk: Walk) -> bool:
        """Whether what ``walk`` has seen is not so any more."""
        stale = self.cause is RootCause.STALE and not walk.arrived
        return stale or self.cause is RootCause.VANISHED


class Walk:
    """The way to one target; go on after a failure to try again where it happened."""

    # One is made for every call: what it begins with is the class's, and costs nothing to make.
    answer: int | None = None
    """The errno of the last ``mkdir``, None if it succeeded or has not returned."""
    _reached: AnyPath | None = None
    _new: Item | None = None
    """What was made right before, and is not looked at yet."""
    _detour: Program | None = None
    """Looks that are under way, before the next ``mkdir``."""

    def __init__(self, target: Target, filesystem: Filesystem, log: Log) -> None:
        self._target = target
        self._filesystem = filesystem
        self.log = log
        self._todo: list[AnyPath] = [target.path]  # the leaf first, what to try next last
        self.operation: Operation | None = ("mkdir", target.path)
        """The system call that comes next; None once the leaf stands."""
        self.mine: set[AnyPath] = set()
        """What this walk has made and not met since."""

    @property
    def arrived(self) -> bool:
        """Whether the leaf stands."""
        return not self._todo

    @property
    def progress(self) -> int:
        """The length of the longest path that is reached."""
        return len(self._reached or "")

    def restart(self) -> None:
        """Forget what was seen, and walk again from the leaf up."""
        self._todo = [self._target.path]
        self._reached = self._new = self._detour = None
        self._turn()

    def run(self) -> Program:
        """All that is left of it, as a program."""
        while self.operation is not None:
            yield self.operation
            self.go_on()

    def go_on(self) -> None:
        """Make the next system call; raises `Failed` at an answer that stops the walk."""
        if self._new is not None:
            self._identify(self._new)
            return
        if self._detour is not None:
            self._follow(self._detour)
            return
        target, path = self._target, self._todo[-1]
        since = time.monotonic()
        self.answer = None
        try:
            self._filesystem.mkdir(path, target.mode_of(path))
        except OSError as error:
            self.refuse(path, error)
        else:
            self.make(path, since)

    def make(self, path: AnyPath, since: float) -> None:
        """The ``mkdir`` that began at ``since`` has made ``path``."""
        item = self.log.made(path, since)
        self.reach(path)
        if self._todo:
            # Before anything that may hang: until then others could replace it.
            self._new = item
            self.operation = "lstat", path

    def reach(self, path: AnyPath) -> None:
        """This call has made ``path``, which was next."""
        self.mine.add(path)
        self._reached = self._todo.pop()
        self._turn()

    def refuse(self, path: AnyPath, error: OSError) -> None:
        """The ``mkdir`` of ``path`` was answered with ``error``; raises `Failed` if that is all."""
        self.answer = number = error.errno or errno.EIO
        if number != errno.ENOENT:
            self._follow(self._met(path, number, leaf=path is self._target.path))
        elif self._climb(path):
            self._turn()
        else:
            self._follow(self._dead_end(path))

    def _turn(self) -> None:
        self.operation = ("mkdir", self._todo[-1]) if self._todo else None

    def _follow(self, detour: Program) -> None:
        """Go on with ``detour`` to its next system call, or back to the way at its end."""
        self._detour = None
        self._turn()  # there it goes on after a failure
        operation = next(detour, None)
        if operation is None:
            self._turn()
        else:
            self._detour, self.operation = detour, operation

    def _climb(self, path: AnyPath) -> bool:
        """Try the parent next, if it is missing too as far as is known."""
        parent = self._target.parent(path) if self._target.parents else None
        if parent is None or parent == self._reached:
            return False
        if is_dot(path):
            # As os.makedirs has it: "new/." is there as soon as "new" is.
            self._todo[-1] = parent
        else:
            self._todo.append(parent)
        return True

    def _identify(self, item: Item) -> None:
        self._new = None
        self._turn()
        with suppress(OSError):  # then it is looked at when it is undone
            status = self._filesystem.lstat(item.path)
            item.identity = status.st_dev, status.st_ino

    def _met(self, path: AnyPath, number: int, *, leaf: bool) -> Program:
        yield from self._stands(path, number, leaf=leaf)
        self.mine.discard(path)  # gone and made again by others, as far as we know
        self._reached = self._todo.pop()

    def _dead_end(self, path: AnyPath) -> Program:
        parent = self._reached
        if parent is None:
            raise Failed(errno.ENOENT, path)
        # A dangling symbolic link stays what it is; a directory that vanished can be made again.
        yield "lstat", parent
        try:
            link = stat.S_ISLNK(self._filesystem.lstat(parent).st_mode)
        except OSError:
            link = False
        if link:
            note = f"{parent!r} is a symbolic link that leads nowhere"
            raise Failed(errno.ENOENT, path, note=note)
        raise Failed(errno.ENOENT, path, RootCause.VANISHED)

    def _stands(self, path: AnyPath, number: int, *, leaf: bool) -> Program:
        """Return if a directory stands at ``path`` and that is as good as having made it.

        On any error, what stands there decides: a read-only parent that exists answers EROFS,
        an automount EACCES, and a server whose reply was lost anything at all.
        """
        exists = number == errno.EEXIST
        if number in AMBIGUOUS:
            self.log.ambiguous.setdefault(path, number)
        if leaf and not self._target.exist_ok:
            yield from self._fail(path, number)
        if exists and not leaf:
            return  # a file in the way shows at the next step down, as ENOTDIR
        yield "stat", path
        try:
            status = self._filesystem.stat(path)
        except FileNotFoundError:
            if exists:
                yield from self._vanished(path)
            yield from self._fail(path, number)
        except OSError as error:
            raise_passing(error, path)
            escapes = root_cause(error.errno) is RootCause.ESCAPES
            yield from self._fail(path, errno.EXDEV if escapes else number)
        else:
            if not stat.S_ISDIR(status.st_mode):
                yield from self._fail(path, number)

    def _vanished(self, path: AnyPath) -> Program:
        # Without a slash at its end, which would make the kernel follow a link.
        name = without_slashes(path)
        yield "lstat", name
        try:
            dangling = stat.S_ISLNK(self._filesystem.lstat(name).st_mode)
        except OSError as error:
            raise_passing(error, path)
            dangling = error.errno != errno.ENOENT
        if not dangling:  # gone, or back again
            raise Failed(errno.ENOENT, path, RootCause.VANISHED)

    def _fail(self, path: AnyPath, number: int) -> Program:
        cause = root_cause(number)
        note = ""
        if cause is RootCause.NOT_PERMITTED:
            parent = parent_of(path) or path
            yield "stat", parent
            try:
                note = who_may_write(parent, self._filesystem.stat(parent))
            except OSError as error:
                note = f"whoever may write to {parent!r} cannot be told: {error.strerror}"
        elif cause is RootCause.ESCAPES and self._target.root is not None:
            note = f"it leads out of {self._target.root.text!r}, by `..` or a symbolic link"
        elif number == errno.EEXIST and path in self.log.ambiguous:
            answer = self.log.ambiguous[path]
            before = errno.errorcode.get(answer, str(answer))
            note = (
                f"an earlier attempt of this call was answered {before} and may have made it;"
                " it cannot be told from another's and is left"
            )
        raise Failed(number, path, note=note)


def raise_passing(error: OSError, path: AnyPath) -> None:
    """What stands at ``path`` cannot be told at the moment."""
    if root_cause(error.errno) in PASSING:
        raise Failed(error.errno or errno.EIO, path) from None


def who_may_write(path: AnyPath, status: os.stat_result) -> str:
    """A sentence about the permissions of ``path`` and those of this process."""
    mode = stat.S_IMODE(status.st_mode)
    owner = f"{path!r} has mode {mode:04o}, uid {status.st_uid}, gid {status.st_gid}"
    if not hasattr(os, "geteuid"):  # pragma: no cover
        return owner
    return f"{owner}; this process has uid {os.geteuid()}, gid {os.getegid()}"
