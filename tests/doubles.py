"""Filesystems behind the library's seam that do what a test tells them, and write it down.

`Scripted` stands before another filesystem: a `Memory`, or the real one. It records every system
call in order, and an act in its script decides what happens at one: answer an error, do the work
and lose the reply, let something else happen first, or wait at a gate.

A `Caller` is one call that a test drives by hand, system call by system call, in a `World` that it
shares with others.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Mapping
from functools import partial
from random import Random
from typing import Any, NoReturn, TypeAlias

import pytest
from trio._core._thread_cache import ThreadCache

from trio_mkdir import BackoffPolicy, Event, Mount, Policy, RootCause
from trio_mkdir._entries import BeingRemoved
from trio_mkdir._events import Recorder
from trio_mkdir._handshake import Handshake
from trio_mkdir._paths import AnyPath, target
from trio_mkdir._registry import Registry
from trio_mkdir._shared import SharedTree
from trio_mkdir._transaction import Transaction
from trio_mkdir._visit import Sliced, Visit
from trio_mkdir._walk import Failed, Walk

Operation: TypeAlias = tuple[str, AnyPath]
Act: TypeAlias = Callable[[Callable[[], Any]], Any]

DISK = Mount(21, 1, "8:1", "/", "/", "rw", "double", "memory")
NAS = Mount(40, 21, "0:40", "/", "/nas", "rw", "nfs4", "nas:/export")

PATIENCE = 10.0
"""Seconds after which a test fails instead of waiting for a thread that does not come."""


def fail(number: int, path: AnyPath | None = None) -> NoReturn:
    raise OSError(number, os.strerror(number), path)


def refuse(number: int) -> Act:
    """Answer an error and do nothing."""
    return lambda do: fail(number)


def lose(number: int) -> Act:
    """Do the work and answer an error all the same, as a server whose reply is lost."""

    def act(do: Callable[[], Any]) -> NoReturn:
        do()
        fail(number)

    return act


def first(happens: Callable[[], object]) -> Act:
    """Let something else happen right before the work."""

    def act(do: Callable[[], Any]) -> Any:
        happens()
        return do()

    return act


def then(happens: Callable[[], object]) -> Act:
    """Let something else happen right after the work, before it is answered."""

    def act(do: Callable[[], Any]) -> Any:
        result = do()
        happens()
        return result

    return act


class Gate:
    """Keeps a thread in a system call, before the work is done, until it is opened."""

    def __init__(self, answer: int | None = None) -> None:
        self._entered = threading.Event()
        self._opened = threading.Event()
        self._answer = answer

    def __call__(self, do: Callable[[], Any]) -> Any:
        self._entered.set()
        assert self._opened.wait(PATIENCE), "nobody opened the gate"
        if self._answer is not None:
            fail(self._answer)
        return do()

    def wait_entered(self) -> None:
        assert self._entered.wait(PATIENCE), "nobody came to the gate"

    def open(self) -> None:
        self._opened.set()


class NoThreads:
    """A process in which trio cannot start a thread, for as often as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._lacking = 0
        start = ThreadCache.start_thread_soon

        def start_if_possible(cache: ThreadCache, *args: Any, **kwargs: Any) -> None:
            if self._lacking:
                self._lacking -= 1
                raise RuntimeError("can't start new thread")
            start(cache, *args, **kwargs)

        monkeypatch.setattr(ThreadCache, "start_thread_soon", start_if_possible)

    def lack(self, times: int) -> None:
        """Fail so many attempts from now on."""
        self._lacking = times


class Node:
    """What stands somewhere: a directory, a file (no children) or a symbolic link."""

    def __init__(self, inode: int, mode: int, link: str = "") -> None:
        self.inode = inode
        self.mode = mode
        self.link = link
        self.children: dict[str, Node] = {}


class Memory:
    """A filesystem of dictionaries; who comes next gets the inode number of what was removed."""

    turn = None

    def __init__(self) -> None:
        self._fresh = itertools.count(2)
        self._free: list[int] = []
        self._root = Node(1, stat.S_IFDIR | 0o755)

    # What a test looks at and prepares

    def tree(self) -> list[str]:
        """Every path but the root, sorted."""
        return sorted(self._below("", self._root))

    def _below(self, path: str, node: Node) -> Iterable[str]:
        for name, child in node.children.items():
            yield f"{path}/{name}"
            yield from self._below(f"{path}/{name}", child)

    def put(self, path: str, kind: int = stat.S_IFDIR, link: str = "") -> None:
        """Make something without anybody's knowledge."""
        self._add(path, kind | 0o755, link)

    def take(self, path: str) -> None:
        """Remove something, and all in it, without anybody's knowledge."""
        parent, name = self._parent(path)
        self._free.append(parent.children.pop(name).inode)

    def mode(self, path: str) -> int:
        return stat.S_IMODE(self._find(path).mode)

    # System calls

    def mkdir(self, path: AnyPath, mode: int) -> None:
        self._add(os.fsdecode(path), stat.S_IFDIR | mode)

    def rmdir(self, path: AnyPath) -> None:
        parent, name = self._parent(os.fsdecode(path))
        node = self._child(parent, name)
        if not stat.S_ISDIR(node.mode):
            fail(errno.ENOTDIR)
        if node.children:
            fail(errno.ENOTEMPTY)
        del parent.children[name]
        self._free.append(node.inode)

    def stat(self, path: AnyPath) -> os.stat_result:
        return self._status(self._find(os.fsdecode(path)))

    def lstat(self, path: AnyPath) -> os.stat_result:
        return self._status(self._find(os.fsdecode(path), follow=False))

    def statvfs(self, path: AnyPath) -> os.statvfs_result:
        self._find(os.fsdecode(path))
        return os.statvfs_result((4096, 4096, 100, 0, 0, 50, 0, 0, 0, 255))

    def sleep(self, seconds: float) -> None:
        """Time does not pass here."""

    def mount(self, path: AnyPath) -> Mount:
        return DISK

    # Paths

    @staticmethod
    def _status(node: Node) -> os.stat_result:
        return os.stat_result((node.mode, node.inode, 99, 2, 1000, 100, 0, 0, 0, 0))

    def _add(self, path: str, mode: int, link: str = "") -> None:
        parent, name = self._parent(path)
        if not stat.S_ISDIR(parent.mode):
            fail(errno.ENOTDIR)
        if name in {".", "..", ""} or name in parent.children:
            fail(errno.EEXIST)
        inode = self._free.pop() if self._free else next(self._fresh)
        parent.children[name] = Node(inode, mode, link)

    def _parent(self, path: str) -> tuple[Node, str]:
        above, _, name = path.rstrip("/").rpartition("/")
        return self._find(above), name

    def _find(self, path: str, *, follow: bool = True) -> Node:
        trail = [self._root]
        names = [name for name in path.split("/") if name]
        while names:
            name = names.pop(0)
            if name == ".." and len(trail) > 1:
                trail.pop()
            elif name not in {".", ".."}:
                child = self._child(trail[-1], name)
                if stat.S_ISLNK(child.mode) and (follow or names):
                    names = [part for part in child.link.split("/") if part] + names
                    trail = trail[:1] if child.link.startswith("/") else trail
                else:
                    trail.append(child)
        return trail[-1]

    @staticmethod
    def _child(node: Node, name: str) -> Node:
        if not stat.S_ISDIR(node.mode):
            fail(errno.ENOTDIR)
        if name not in node.children:
            fail(errno.ENOENT)
        return node.children[name]


class Scripted:
    """Another filesystem, with a script and a record."""

    turn = None

    def __init__(self, below: Any = None) -> None:
        self.below: Any = Memory() if below is None else below
        self.calls: list[Operation] = []
        """Every system call, in the order in which they began."""
        self.mounts: Callable[[AnyPath], Mount] = self.below.mount
        self._script: defaultdict[Operation, deque[Act]] = defaultdict(deque)
        self._rules: dict[Operation, Act] = {}

    def script(self, name: str, path: AnyPath, *acts: Act) -> None:
        """What the next calls of ``name`` on ``path`` do; those after them do as usual."""
        self._script[name, path].extend(acts)

    def always(self, name: str, path: AnyPath, act: Act) -> None:
        """What every call of ``name`` on ``path`` does."""
        self._rules[name, path] = act

    def gate(self, name: str, path: AnyPath, answer: int | None = None) -> Gate:
        """Stop the next call of ``name`` on ``path``."""
        gate = Gate(answer)
        self.script(name, path, gate)
        return gate

    def _run(self, name: str, path: AnyPath, do: Callable[[], Any]) -> Any:
        self.calls.append((name, path))
        acts = self._script.get((name, path))
        act = acts.popleft() if acts else self._rules.get((name, path))
        try:
            return do() if act is None else act(do)
        except OSError as error:
            error.filename = path
            raise

    def mkdir(self, path: AnyPath, mode: int) -> None:
        self._run("mkdir", path, partial(self.below.mkdir, path, mode))

    def rmdir(self, path: AnyPath) -> None:
        self._run("rmdir", path, partial(self.below.rmdir, path))

    def stat(self, path: AnyPath) -> os.stat_result:
        result: os.stat_result = self._run("stat", path, partial(self.below.stat, path))
        return result

    def lstat(self, path: AnyPath) -> os.stat_result:
        result: os.stat_result = self._run("lstat", path, partial(self.below.lstat, path))
        return result

    def statvfs(self, path: AnyPath) -> os.statvfs_result:
        result: os.statvfs_result = self._run("statvfs", path, partial(self.below.statvfs, path))
        return result

    def sleep(self, seconds: float) -> None:
        self._run("sleep", f"{seconds:g}", partial(self.below.sleep, seconds))

    def mount(self, path: AnyPath) -> Mount:
        return self.mounts(path)


def drive(program: Generator[Operation, None, Any]) -> list[Operation]:
    """Carry a program out to its end; what it said it would do."""
    return list(program)


def drive_to(program: Generator[Operation, None, Any], name: str, path: AnyPath) -> None:
    """Carry a program out until it is about to start ``name`` on ``path``."""
    for operation in program:
        if operation == (name, path):
            return
    raise AssertionError(f"it never came to {name} {path!r}")


class Interleaved(SharedTree):
    """A shared tree that lets something else happen right before one of its methods."""

    def __init__(self) -> None:
        super().__init__()
        self._before: defaultdict[str, deque[Callable[[], object]]] = defaultdict(deque)

    def before(self, method: str, happens: Callable[[], object]) -> None:
        """Have ``happens`` called right before the next call of ``method``."""
        self._before[method].append(happens)

    def _let(self, method: str) -> None:
        waiting = self._before[method]
        if waiting:
            waiting.popleft()()

    def hold(self, *args: Any, **kwargs: Any) -> Any:
        self._let("hold")
        return super().hold(*args, **kwargs)

    def removed(self, *args: Any, **kwargs: Any) -> Any:
        self._let("removed")
        return super().removed(*args, **kwargs)

    def made(self, *args: Any, **kwargs: Any) -> Any:
        self._let("made")
        return super().made(*args, **kwargs)


class World(Registry):
    """One filesystem, and all that the calls of one process share."""

    def __init__(self, *there: str) -> None:
        super().__init__()
        self.filesystem = Scripted()
        self.memory: Memory = self.filesystem.below
        for path in there:
            self.memory.put(path)
        self.tree: Interleaved = Interleaved()
        self.random = Random(0)

    @property
    def calls(self) -> list[str]:
        return [f"{name} {os.fsdecode(path)}" for name, path in self.filesystem.calls]


class Errand:
    """Any generator function as the work of a visit."""

    def __init__(self, do: Callable[[Visit], Generator[Operation, None, bool]]) -> None:
        self.do = do

    def close(self) -> None:
        """It keeps nothing from one visit to the next."""


class Caller:
    """One call without a thread and an event loop, driven by hand, system call by system call."""

    def __init__(
        self,
        world: World,
        path: str,
        *,
        exist_ok: bool = False,
        retries: Mapping[RootCause, BackoffPolicy] | None = None,
        observers: Iterable[Callable[[Event], object]] = (),
    ) -> None:
        self.world = world
        self.told: list[Event] = []
        policy = Policy(observers=[self.told.append, *observers], retries=retries or {})
        self.target = target(path, mode=0o777, parent_mode=None, exist_ok=exist_ok, parents=True)
        self.recorder = Recorder(policy.observers)
        self.transaction = Transaction(
            world,
            world.workers.on(DISK),
            world.filesystem,
            self.recorder,
            policy,
            partial(self.target.prefixes, ""),
        )
        self.walk = Walk(self.target, world.filesystem, self.transaction)
        world.tree.begin(self.transaction.holder)

    def going(self) -> Generator[Operation, None, None]:
        """Make the path, as a call's visits do; made again at once where it vanishes."""
        while True:
            try:
                yield from self.transaction.forward(self.walk)
            except BeingRemoved as removal:
                yield from self.transaction.enter()
                while self.world.tree.when_removed(removal.entry, lambda: None):
                    yield "wait", removal.entry.path
            except Failed as failure:
                yield from self.transaction.enter()
                if failure.cause is not RootCause.VANISHED:
                    raise
                self.walk.restart()
            else:
                return

    def go(self) -> None:
        drive(self.going())

    def succeed(self) -> None:
        self.go()
        self.commit()

    def commit(self) -> None:
        self.transaction.commit()

    def walking(self) -> Sliced:
        return Sliced(self.walk.run(), self.transaction.enter)

    def visit(
        self, errand: Callable[[Visit], Generator[Operation, None, bool]] | None = None
    ) -> Visit:
        """A visit to a worker thread, to walk all the way if nothing else is said."""
        work = Errand(errand) if errand else self.walking()
        visit = Visit(self.transaction, self.world.workers.on(DISK), work, self.walk)
        self.transaction.join(visit)
        return visit

    def payer(self) -> Handshake:
        """A thread that is there for this call."""
        payer = Handshake(self.transaction.lock)
        payer.start()
        self.transaction.join(payer)
        return payer

    def undoing(self) -> Generator[Operation, None, None]:
        """Undo it, as one thread does."""
        payer = self.payer()
        for operation in self.transaction.undo(payer):
            payer.operation = operation
            yield operation
        payer.finish()

    def end(self) -> None:
        self.world.tree.end(self.transaction.holder)

    def fail(self) -> None:
        drive(self.undoing())
        self.end()

    def tells(self, kind: type[Event]) -> list[AnyPath]:
        """The paths of its events of one kind."""
        return [event.path for event in self.told if type(event) is kind]
