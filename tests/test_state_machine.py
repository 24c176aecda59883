"""Whatever happens in whatever order, the tree ends as the model says.

A random program starts calls and rollback nurseries on a few shared paths, also by way of symbolic
links, lets their system calls go on one at a time or answers them with errors, cancels, lets time
pass, and makes and removes directories behind the library's back. When everything has been let go
and nothing is owed any more, the whole tree is compared with `model.Model`. The same program runs
twice: without threads, where every run with the same choices is the same, and with real worker
threads on a real filesystem, from two runs of trio at once. Clocks move only when they are told to.

TRIO_MKDIR_NIGHTLY=1 runs 2,000 examples of 50 steps of each.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import shutil
import stat
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import attrs
import hypothesis.strategies as st
import pytest
import trio
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from model import Model, prefixes, tree_below
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_mkdir
from trio_mkdir import (
    BackoffPolicy,
    MkdirError,
    Mount,
    Policy,
    RollbackError,
    RootCause,
    _lane,
    _visit,
)
from trio_mkdir import _walk as walk_module
from trio_mkdir._paths import AnyPath
from trio_mkdir._registry import registry
from trio_mkdir._workers import limiter
from trio_mkdir.testing import MemoryFilesystem

if TYPE_CHECKING:
    from trio_mkdir._os import Filesystem

NIGHTLY = os.environ.get("TRIO_MKDIR_NIGHTLY", "0") not in {"", "0"}
PATIENCE = 20.0
"""Real seconds after which something that should have happened never will."""
WORKERS = 40
ROLLBACK_TIMEOUT = 1.0

# Without jitter, so that the same choices are the same run.
RETRIES = dict.fromkeys(
    [
        RootCause.BUSY,
        RootCause.NO_SPACE,
        RootCause.NO_RESOURCES,
        RootCause.STALE,
        RootCause.TIMED_OUT,
    ],
    BackoffPolicy(initial=0.01, multiplier=5.0, maximum=0.25, max_retries=3),
) | {RootCause.VANISHED: BackoffPolicy.constant(0, max_retries=10)}

PASSING = [errno.EAGAIN, errno.ENOSPC, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT]
LASTING = [errno.EACCES, errno.EROFS, errno.EIO, errno.ENOTCONN]
OPERATIONS = {"mkdir", "rmdir", "stat", "lstat"}

# Symbolic links beside the tree, and what they lead to.
LINKS = {"alias": "tree", "deep": "tree/a"}


class Planned(Exception):
    """What a block that is to fail raises."""


# The filesystem, in which every thread stops before and after its system calls


@attrs.define(eq=False)
class Stop:
    """A thread that waits to be let go."""

    traveller: object
    operation: str
    path: str
    took_effect: bool
    go: Callable[[], object]
    """Wakes it."""
    answer: int | None = None
    lost_reply: bool = False


class Gates:
    """What both kinds of gates have in common."""

    def __init__(self, backing: Any, told_lost: Callable[[AnyPath], object]) -> None:
        self.backing = backing
        self.stops: list[Stop] = []
        self.opened = False
        self.record: list[str] = []
        """What took effect and what was told, in order: with threads no run is like another."""
        self._told_lost = told_lost
        self._lock = threading.Lock()
        self._free: set[object] = set()  # do not stop until everybody is quiet
        self._passing: set[object] = set()  # do not stop after their effect

    def let_go(self, stop: Stop, how: str) -> None:
        """Up to its effect, to the next system call, or to the end."""
        with self._lock:
            self.stops.remove(stop)
            if how == "call" and not stop.took_effect:
                self._passing.add(stop.traveller)
            elif how == "run":
                self._free.add(stop.traveller)
        stop.go()

    def quiet(self) -> None:
        """Whoever ran freely has ended, and its thread may come back for somebody else."""
        with self._lock:
            self._free.clear()
            self._passing.clear()

    def open(self) -> None:
        """Stop nobody, until `close`."""
        with self._lock:
            self.opened = True
            stops, self.stops = self.stops, []
        for stop in stops:
            stop.go()

    def close(self) -> None:
        self.opened = False

    def _stop(
        self,
        traveller: object,
        operation: str,
        path: AnyPath,
        go: Callable[[], object],
        *,
        after: bool,
    ) -> Stop | None:
        with self._lock:
            if after and traveller in self._passing:
                self._passing.discard(traveller)
                return None
            if self.opened or traveller in self._free:
                return None
            stop = Stop(traveller, operation, os.fsdecode(path), after, go)
            self.stops.append(stop)
            return stop

    def _effect(
        self, stop: Stop | None, operation: str, path: AnyPath, do: Callable[[], Any]
    ) -> Any:
        what = f"{self.who()}: {operation} {os.fsdecode(path)}"
        try:
            result = self._answer(stop, path, do)
        except OSError as error:
            self.record.append(f"{what}: {error.strerror}")
            raise
        self.record.append(f"{what}: {getattr(result, 'st_ino', 'done')}")
        return result

    def _answer(self, stop: Stop | None, path: AnyPath, do: Callable[[], Any]) -> Any:
        if stop is None or stop.answer is None:
            return do()
        if stop.lost_reply:
            do()
            self.record.append(f"{os.fsdecode(path)} is made, and the reply is lost")
            self._told_lost(path)
        raise OSError(stop.answer, os.strerror(stop.answer), path)

    def who(self) -> object:
        """Who is at a system call."""
        raise NotImplementedError

    def statvfs(self, path: AnyPath) -> os.statvfs_result:
        result: os.statvfs_result = self.backing.statvfs(path)
        return result

    def sleep(self, seconds: float) -> None:
        """No time passes, and who runs freely stops again: he may wait for one who is held."""
        with self._lock:
            self._free.discard(self.who())

    def mount(self, path: AnyPath) -> Mount:
        mount: Mount = self.backing.mount(path)
        return mount


class TaskGates(Gates):
    """Without threads: it is tasks that stop, in `turn`.

    A system call takes effect in there, before the library's own code asks for it, so that its task
    can stop afterwards.
    """

    def __init__(self, backing: Any, told_lost: Callable[[AnyPath], object]) -> None:
        super().__init__(backing, told_lost)
        self._outcomes: dict[object, tuple[str, AnyPath, Callable[[], Any]]] = {}
        self._began: dict[object, float] = {}

    def who(self) -> object:
        return trio.lowlevel.current_task()

    async def turn(self, announced: tuple[str, AnyPath] | None) -> None:
        await trio.lowlevel.checkpoint()
        task = trio.lowlevel.current_task()
        if announced is None or announced[0] not in OPERATIONS:
            return
        operation, path = announced
        stop = await self._wait(task, operation, path, after=False)
        self._began[task] = time.monotonic()
        self._outcomes[task] = operation, path, self._carry_out(stop, operation, path)
        await self._wait(task, operation, path, after=True)

    async def _wait(
        self, task: object, operation: str, path: AnyPath, *, after: bool
    ) -> Stop | None:
        event = trio.Event()
        stop = self._stop(task, operation, path, event.set, after=after)
        if stop is not None:
            await event.wait()
        return stop

    def _carry_out(self, stop: Stop | None, operation: str, path: AnyPath) -> Callable[[], Any]:
        try:
            do = partial(getattr(self.backing, operation), path)
            result = self._effect(stop, operation, path, do)
        except OSError as error:
            return partial(_raise, error)
        return lambda: result

    def monotonic(self) -> float:
        """`time.monotonic`, but the moment of its effect for who is at its system call."""
        return self.at_its_call() or time.monotonic()

    def at_its_call(self) -> float | None:
        """The moment of its effect, for who is at its system call."""
        if trio.lowlevel.in_trio_task():
            return self._began.get(trio.lowlevel.current_task())
        return None

    def _taken(self, operation: str, path: AnyPath) -> Any:
        if trio.lowlevel.in_trio_task():
            task = trio.lowlevel.current_task()
            self._began.pop(task, None)
            announced = self._outcomes.pop(task, None)
            if announced is not None:
                assert announced[:2] == (operation, path)
                return announced[2]()
        return getattr(self.backing, operation)(path)

    def mkdir(self, path: AnyPath, mode: int) -> None:
        self._taken("mkdir", path)

    def rmdir(self, path: AnyPath) -> None:
        self._taken("rmdir", path)

    def stat(self, path: AnyPath) -> os.stat_result:
        result: os.stat_result = self._taken("stat", path)
        return result

    def lstat(self, path: AnyPath) -> os.stat_result:
        result: os.stat_result = self._taken("lstat", path)
        return result


def _raise(error: OSError) -> None:
    raise error


class ThreadGates(Gates):
    """With threads, which stop in the system call itself."""

    turn = None

    def who(self) -> object:
        return threading.get_ident()

    def _do(self, operation: str, path: AnyPath, do: Callable[[], Any]) -> Any:
        stop = self._wait(operation, path, after=False)
        try:
            return self._effect(stop, operation, path, do)
        finally:
            self._wait(operation, path, after=True)

    def _wait(self, operation: str, path: AnyPath, *, after: bool) -> Stop | None:
        event = threading.Event()
        stop = self._stop(threading.get_ident(), operation, path, event.set, after=after)
        if stop is not None:
            assert event.wait(PATIENCE)
        return stop

    def mkdir(self, path: AnyPath, mode: int) -> None:
        self._do("mkdir", path, partial(self.backing.mkdir, path, mode))

    def rmdir(self, path: AnyPath) -> None:
        self._do("rmdir", path, partial(self.backing.rmdir, path))

    def stat(self, path: AnyPath) -> os.stat_result:
        result: os.stat_result = self._do("stat", path, partial(self.backing.stat, path))
        return result

    def lstat(self, path: AnyPath) -> os.stat_result:
        result: os.stat_result = self._do("lstat", path, partial(self.backing.lstat, path))
        return result


# A run of trio that does nothing unless it is told to


class Run:
    """`trio.run` in a thread of its own."""

    def __init__(self) -> None:
        self.clock = MockClock()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(PATIENCE)

    def _run(self) -> None:
        trio.run(self._main, clock=self.clock)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._over = trio.Event()
        async with trio.open_nursery() as self.nursery:
            self._ready.set()
            await self._over.wait()

    def do(self, fn: Callable[..., object], *args: object) -> None:
        """Call ``fn``, and let everything happen that follows.

        As one: otherwise it would depend on the time in between which tasks trio shuffles together.
        """

        async def do_and_wait() -> None:
            fn(*args)
            await wait_all_tasks_blocked()

        trio.from_thread.run(do_and_wait, trio_token=self._token)

    def until_blocked(self) -> None:
        self.do(lambda: None)

    def workers_in_use(self, mount: Mount) -> int:
        return trio.from_thread.run_sync(self._in_use, mount, trio_token=self._token)

    @staticmethod
    def _in_use(mount: Mount) -> int:
        return limiter(registry.workers.on(mount), WORKERS).borrowed_tokens

    def until_next_deadline(self) -> float:
        statistics = trio.from_thread.run_sync(
            trio.lowlevel.current_statistics, trio_token=self._token
        )
        return statistics.seconds_to_next_deadline

    def end(self) -> None:
        trio.from_thread.run_sync(self._over.set, trio_token=self._token)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


# What is running


@attrs.define(eq=False)
class Running:
    """A call or a block."""

    run: Run
    outer: Block | None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    done: bool = False
    patience: float | None = None
    """Once it is cancelled: seconds in which it ends, whatever the kernel does."""


@attrs.define(eq=False)
class Made(Running):
    """One call of ``makedirs``, ``mkdir`` or, for more than one path, ``makedirs_many``."""

    paths: Sequence[str] = attrs.field(kw_only=True)
    parents: bool = attrs.field(kw_only=True)
    exist_ok: bool = attrs.field(kw_only=True)
    escapes: bool = attrs.field(kw_only=True)
    """Whether its error ends the block around it."""


Send = trio.MemorySendChannel[Callable[[trio_mkdir.RollbackNursery], object]]
Receive = trio.MemoryReceiveChannel[Callable[[trio_mkdir.RollbackNursery], object]]


@attrs.define(eq=False)
class Block(Running):
    """A rollback nursery, which does what it is told by a channel."""

    listens: bool = False
    succeeded: list[tuple[str, int]] = attrs.field(factory=list)
    compensations: list[int] = attrs.field(factory=list)
    send: Send = attrs.field(init=False)
    receive: Receive = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.send, self.receive = trio.open_memory_channel[
            Callable[[trio_mkdir.RollbackNursery], object]
        ](1000)

    @property
    def depth(self) -> int:
        return 0 if self.outer is None else 1 + self.outer.depth


paths_inside = st.lists(st.sampled_from("aab"), min_size=1, max_size=3).map("/".join)
asked_paths = st.tuples(st.sampled_from(["tree", "tree", *LINKS]), paths_inside).map("/".join)
which = st.integers(0, 9)
calls = st.tuples(
    asked_paths,
    st.sampled_from([True, True, True, False]),  # with parents
    st.sampled_from([True, True, False]),  # exist_ok
    st.booleans(),  # whether its error ends the block around it
    which,
    which,
)


def if_it_can_be_told(condition: Callable[[Any], object]) -> Callable[[Any], Any]:
    """A precondition, where the same choices always lead to the same state.

    With threads they do not, and what is chosen must not depend on it.
    """
    return precondition(lambda machine: not machine.repeatable or bool(condition(machine)))


class Machine(RuleBasedStateMachine):
    """The rules; what they run on is said below."""

    repeatable = True

    counts: ClassVar[Counter[str]] = Counter()
    gates: Gates
    runs: list[Run]
    root: str
    reuses_inodes = False

    def __init__(self) -> None:
        super().__init__()
        self.running: list[Running] = []
        self.crashes: list[str] = []
        self.compensated: list[int] = []
        self._numbers = itertools.count()
        self._patch = pytest.MonkeyPatch()
        self.slices = 0.0
        self._patch.setattr(_visit, "time", SimpleNamespace(monotonic=lambda: self.slices))
        self.model = Model({})
        self.set_up()
        self.policy = Policy(
            rollback_timeout=ROLLBACK_TIMEOUT,
            retries=RETRIES,
            budget=None,
            stall_after=1000,
            workers=WORKERS,
            filesystem=cast("Filesystem", self.gates),
            observers=(self.observe,),
        )

    # What differs

    def set_up(self) -> None:
        raise NotImplementedError

    def tear_down(self) -> None:
        raise NotImplementedError

    def tree(self) -> dict[str, int]:
        raise NotImplementedError

    def open_gates(self) -> None:
        raise NotImplementedError

    def wait_quiet(self) -> None:
        """Until everything that can go on by itself has."""
        raise NotImplementedError

    # What happens

    def observe(self, event: trio_mkdir.Event) -> None:
        name, path = type(event).__name__, os.fsdecode(event.path)
        self.gates.record.append(f"call {event.call}: {name} {path}")
        if isinstance(event, trio_mkdir.Kept) and event.errno is not None:
            self.model.is_nobodys(self.real(event.path))

    def real(self, path: AnyPath) -> str:
        """``path`` relative to the tree, as it is without symbolic links."""
        head, _, rest = os.path.relpath(os.fsdecode(path), self.root).partition("/")
        if head in LINKS:
            head, _, more = LINKS[head].partition("/")
            rest = "/".join(filter(None, [more, rest]))
        return rest

    def full(self, path: str) -> str:
        return os.path.join(self.root, path)

    async def _make(self, call: Made, nursery: trio_mkdir.RollbackNursery | None) -> None:
        paths = [self.full(path) for path in call.paths]
        path, many = paths[0], len(paths) > 1
        try:
            with call.scope:
                began = self.model.call_begins()
                if many and nursery is not None:
                    await nursery.makedirs_many(paths, exist_ok=call.exist_ok, concurrency=3)
                elif many:
                    await trio_mkdir.makedirs_many(
                        paths, exist_ok=call.exist_ok, concurrency=3, policy=self.policy
                    )
                elif nursery is not None and call.parents:
                    await nursery.makedirs(path, exist_ok=call.exist_ok)
                elif nursery is not None:
                    await nursery.mkdir(path, exist_ok=call.exist_ok)
                elif call.parents:
                    await trio_mkdir.makedirs(path, exist_ok=call.exist_ok, policy=self.policy)
                else:
                    await trio_mkdir.mkdir(path, exist_ok=call.exist_ok, policy=self.policy)
                self.counts["successes of many" if many else "successes"] += 1
                self._succeeded(call.outer, [(self.real(path), began) for path in paths])
            self.counts["cancelled"] += call.scope.cancelled_caught
        except MkdirError:
            self.counts["failures"] += 1
            if call.escapes and nursery is not None:
                raise
        except Exception as crash:  # noqa: BLE001 - told when it is looked at
            self.crashes.append(repr(crash))
        finally:
            call.done = True

    def _succeeded(self, outer: Block | None, paths: list[tuple[str, int]]) -> None:
        if outer is not None:
            outer.succeeded += paths
            return
        for path, began in paths:
            self.model.call_succeeded(path, began)

    async def _block(self, block: Block) -> None:
        well = False
        try:
            with block.scope:
                async with trio_mkdir.open_rollback_nursery(policy=self.policy) as nursery:
                    block.listens = True
                    try:
                        async for command in block.receive:
                            command(nursery)
                    finally:
                        block.listens = False
                well = not nursery.cancel_scope.cancel_called
                if well:
                    self._succeeded(block.outer, block.succeeded)
        except Exception as failure:  # noqa: BLE001 - told when it is looked at
            expected = (Planned, MkdirError, RollbackError)
            if not all(isinstance(each, expected) for each in leaves(failure)):
                self.crashes.append(repr(failure))
        finally:
            self._block_ended(block, well=well)
            block.done = True

    def _block_ended(self, block: Block, *, well: bool) -> None:
        self.counts["blocks ended well" if well else "blocks undone"] += 1
        self.counts["compensations"] += 0 if well else len(block.compensations)
        ran = [number for number in self.compensated if number in block.compensations]
        # Their numbers tell in which order they were pushed, in whichever block.
        expected = [] if well else sorted(block.compensations, reverse=True)
        if ran != expected:
            self.crashes.append(f"compensations {expected} ran as {ran}")
        if well and block.outer is not None:
            block.outer.compensations += block.compensations

    def _push_undo(self, block: Block, nursery: trio_mkdir.RollbackNursery, *, fails: bool) -> None:
        number = next(self._numbers)
        before = {prefix for path, _ in block.succeeded for prefix in prefixes(path)}

        def undo() -> None:
            self.compensated.append(number)
            for path in before - self.tree().keys() - self.model.removed_by_others:
                self.crashes.append(f"{path} was undone before what came after it")
            if fails:
                raise LookupError("a compensation that fails")

        nursery.push_undo(undo)
        block.compensations.append(number)

    @staticmethod
    def _raise(nursery: trio_mkdir.RollbackNursery) -> None:
        raise Planned

    def _tell(self, block: Block, command: Callable[[trio_mkdir.RollbackNursery], object]) -> None:
        if block.listens:
            block.send.send_nowait(command)

    # What is there to choose from

    @property
    def alive(self) -> list[Running]:
        return [each for each in self.running if not each.done]

    @property
    def blocks(self) -> list[Block]:
        return [each for each in self.alive if isinstance(each, Block) and each.listens]

    @property
    def stops(self) -> list[Stop]:
        """Those that are held, in an order that does not depend on who was quicker."""
        return sorted(self.gates.stops, key=lambda stop: (stop.path, stop.operation))

    def _check(self) -> None:
        self.wait_quiet()
        self.gates.quiet()
        assert not self.crashes, self.crashes

    def _pick_block(self, number: int) -> Block | None:
        """One of the blocks, or none."""
        return ([*self.blocks, None] * 10)[number]

    # Rules

    @initialize(
        before=st.lists(paths_inside, max_size=1),
        reuses_inodes=st.booleans(),
        blocks=st.integers(0, 2),
        first=st.lists(calls, min_size=1, max_size=4),
    )
    def begin(
        self, before: list[str], reuses_inodes: bool, blocks: int, first: list[tuple[Any, ...]]
    ) -> None:
        self.reuses_inodes = reuses_inodes
        self.prepare(before)
        self.model = Model(self.tree())
        # A run that may choose from few rules only has something to choose from, too.
        for number in range(blocks):
            self._open_block(None, number)
        for a_call in first:
            self._begin_call(*a_call)

    def prepare(self, before: list[str]) -> None:
        raise NotImplementedError

    @if_it_can_be_told(lambda self: len(self.alive) < 8)
    @rule(a_call=calls, another=st.none() | calls)
    def make(self, a_call: tuple[Any, ...], another: tuple[Any, ...] | None) -> None:
        self._begin_call(*a_call)
        if another is not None:
            self._begin_call(*another)

    @if_it_can_be_told(lambda self: len(self.alive) < 8)
    @rule(paths=st.lists(asked_paths, min_size=2, max_size=5), exist_ok=st.booleans(), a_call=calls)
    def make_many(self, paths: list[str], exist_ok: bool, a_call: tuple[Any, ...]) -> None:
        self._begin_call(paths, True, exist_ok, *a_call[3:])

    def _begin_call(
        self,
        path: str | Sequence[str],
        parents: bool,
        exist_ok: bool,
        escapes: bool,
        inside: int,
        number: int,
    ) -> None:
        block = self._pick_block(inside)
        run = self.runs[number % len(self.runs)] if block is None else block.run
        paths = [path] if isinstance(path, str) else path
        call = Made(run, block, paths=paths, parents=parents, exist_ok=exist_ok, escapes=escapes)
        self.counts["calls"] += 1
        self.running.append(call)
        if block is None:
            run.do(run.nursery.start_soon, self._make, call, None)
        else:
            run.do(self._tell, block, lambda nursery: nursery.start_soon(self._make, call, nursery))
        self._check()

    @if_it_can_be_told(lambda self: len(self.blocks) < 4)
    @rule(inside=which, number=which)
    def open_block(self, inside: int, number: int) -> None:
        self._open_block(self._pick_block(inside), number)

    def _open_block(self, outer: Block | None, number: int) -> None:
        if outer is not None and outer.depth > 1:
            return
        run = self.runs[number % len(self.runs)] if outer is None else outer.run
        block = Block(run, outer)
        self.running.append(block)
        if outer is None:
            run.do(run.nursery.start_soon, self._block, block)
        else:
            run.do(self._tell, outer, lambda nursery: nursery.start_soon(self._block, block))
        self._check()

    @if_it_can_be_told(lambda self: self.blocks)
    @rule(number=which, fails=st.booleans())
    def push_undo(self, number: int, fails: bool) -> None:
        block = pick(self.blocks, number)
        if block is None:
            return
        block.run.do(self._tell, block, partial(self._push_undo, block, fails=fails))
        self._check()

    @if_it_can_be_told(lambda self: self.blocks)
    @rule(number=which, how=st.sampled_from(["well", "raises", "cancels"]))
    def end_block(self, number: int, how: str) -> None:
        block = pick(self.blocks, number)
        if block is None:
            return
        if how == "well":
            block.run.do(block.send.close)
        elif how == "raises":
            block.run.do(self._tell, block, self._raise)
        else:
            block.run.do(self._tell, block, lambda nursery: nursery.cancel_scope.cancel())
            block.run.do(block.send.close)
        self._check()

    @if_it_can_be_told(lambda self: self.alive)
    @rule(number=which)
    def cancel(self, number: int) -> None:
        one = pick(self.alive, number)
        if one is None:
            return
        one.run.do(one.scope.cancel)
        # Its own undoing, and that of what is inside it one after the other.
        one.patience = ROLLBACK_TIMEOUT * (1 if isinstance(one, Made) else 4)
        self._check()

    @if_it_can_be_told(lambda self: self.gates.stops)
    @rule(
        each=st.lists(
            st.tuples(which, st.sampled_from(["call", "call", "effect", "run"])),
            min_size=1,
            max_size=5,
        )
    )
    def let_go(self, each: list[tuple[int, str]]) -> None:
        for number, how in each:
            stop = pick(self.stops, number)
            if stop is not None:
                self.gates_do(stop, partial(self.gates.let_go, stop, how))
                self._check()

    @if_it_can_be_told(lambda self: self.gates.stops)
    @rule()
    def let_everybody_run(self) -> None:
        for stop in self.stops:
            self.gates_do(stop, partial(self.gates.let_go, stop, "run"))
        self._check()

    @if_it_can_be_told(lambda self: self.waiting_to_begin)
    @rule(
        number=which,
        answer=st.sampled_from([*PASSING, *LASTING]),
        lost=st.sampled_from([False, False, True]),
    )
    def answer(self, number: int, answer: int, lost: bool) -> None:
        stop = pick(self.waiting_to_begin, number)
        if stop is None:
            return
        stop.answer = answer
        stop.lost_reply = lost and stop.operation == "mkdir"
        self.counts["faults"] += 1
        self.gates_do(stop, partial(self.gates.let_go, stop, "call"))
        self._check()

    @property
    def waiting_to_begin(self) -> list[Stop]:
        return [stop for stop in self.stops if not stop.took_effect]

    def gates_do(self, stop: Stop, fn: Callable[[], object]) -> None:
        raise NotImplementedError

    @if_it_can_be_told(lambda self: self.gates.stops)
    @rule(path=paths_inside)
    def others_make(self, path: str) -> None:
        try:
            self.gates.backing.mkdir(self.full(f"tree/{path}"), 0o777)
        except OSError:
            return
        self.counts["others made"] += 1
        self.gates.record.append(f"others made {path}")
        self.model.others_made(path)

    # Which directory has the number of which, after others removed one, nobody can know.
    @if_it_can_be_told(lambda self: self.gates.stops and not self.reuses_inodes)
    @rule(path=paths_inside)
    def others_remove(self, path: str) -> None:
        if self.reuses_inodes:
            return
        looked_at = any(
            stop.operation == ("lstat" if stop.took_effect else "rmdir")
            for stop in self.gates.stops
            if self.real(stop.path) == path
        )
        try:
            self.gates.backing.rmdir(self.full(f"tree/{path}"))
        except OSError:
            return
        self.counts["others removed"] += 1
        self.gates.record.append(f"others removed {path}")
        self.model.others_removed(path, looked_at=looked_at)

    @if_it_can_be_told(lambda self: self.alive)
    @rule(seconds=st.sampled_from([0.3, 1.5, 6.0]))
    def time_passes(self, seconds: float) -> None:
        for run in self.runs:
            # In small steps, as undoing in nurseries takes its time one after the other.
            for _ in range(int(seconds / 0.3)):
                run.do(run.clock.jump, 0.3)
                self.wait_quiet()
        self._check()
        for one in self.alive:
            if one.patience is not None:
                one.patience -= seconds
                assert one.patience > 0, f"cancelled and never ended: {one}"

    @if_it_can_be_told(lambda self: self.gates.stops)
    @rule()
    def slices_are_used_up(self) -> None:
        self.slices += 1

    @if_it_can_be_told(lambda self: len(self.running) > 15)
    @rule(ends=st.lists(st.booleans(), min_size=3, max_size=3))
    def settle(self, ends: list[bool]) -> None:
        if len(self.running) > 15:
            self.end_and_compare(ends)

    def end_and_compare(self, ends: list[bool]) -> None:
        """End everything, blocks well or not, and compare."""
        self.open_gates()
        self.wait_quiet()
        end = itertools.cycle(ends)
        deadline = time.monotonic() + PATIENCE
        while self.alive or trio_mkdir.pending_rollbacks() or self._busy():
            assert time.monotonic() < deadline, (self.alive, trio_mkdir.pending_rollbacks())
            for block in self.blocks[::-1][:1]:
                if not next(end):
                    block.run.do(self._tell, block, self._raise)
                block.run.do(block.send.close)
            self.wait_quiet()
            for run in self.runs:
                seconds = run.until_next_deadline()
                if 0 < seconds < 3600:
                    run.do(run.clock.jump, seconds)
            self.wait_quiet()
        self._check()
        self.gates.close()
        self.running.clear()
        differences = self.model.differences(self.tree())
        assert not differences, "\n".join([*map(str, differences), *self.gates.record])
        self.gates.record.clear()
        assert registry.tree.statistics == (0, 0)
        assert not registry.workers.stuck_in()
        self.counts["comparisons"] += 1

    def _busy(self) -> bool:
        return False

    def teardown(self) -> None:
        try:
            self.end_and_compare([True, False, False])
            self.counts["examples"] += 1
        finally:
            self.open_gates()
            for run in self.runs:
                run.end()
            self._patch.undo()
            self.tear_down()


T = TypeVar("T")


def pick(choices: Sequence[T], number: int) -> T | None:
    """One of them, if there is one."""
    return choices[number % len(choices)] if choices else None


def leaves(failure: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, or the one that is none."""
    inside = getattr(failure, "exceptions", None)
    if inside is None:
        yield failure
    else:
        for each in inside:
            yield from leaves(each)


# Without threads


class WithoutThreads(Machine):
    """Every thread is a task, and the filesystem is in memory."""

    counts: ClassVar[Counter[str]] = Counter()
    gates: TaskGates

    def set_up(self) -> None:
        self.root = "/root"
        self.gates = TaskGates(MemoryFilesystem(), self._lost)
        self._patch.setattr(walk_module, "time", self.gates)
        # A slice is used up when the program says so; until then everything is fast.
        quick = SimpleNamespace(monotonic=lambda: self.gates.at_its_call() or self.slices)
        self._patch.setattr(_lane, "time", quick)
        self.runs = [Run()]

    def _lost(self, path: AnyPath) -> None:
        self.model.is_nobodys(self.real(path))

    def prepare(self, before: list[str]) -> None:
        memory = self.gates.backing = MemoryFilesystem(reuse_inodes=self.reuses_inodes)
        for path in ["", *before]:
            memory.add_directory(self.full(f"tree/{path}").rstrip("/"))
        for link, leads_to in LINKS.items():
            memory.add_symlink(self.full(link), self.full(leads_to))

    def tear_down(self) -> None:
        pass

    def tree(self) -> dict[str, int]:
        memory, tree = self.gates.backing, self.full("tree/")
        return {
            path.removeprefix(tree): memory.lstat(path).st_ino
            for path in memory.paths()
            if path.startswith(tree) and stat.S_ISDIR(memory.lstat(path).st_mode)
        }

    def wait_quiet(self) -> None:
        for run in self.runs:
            run.until_blocked()

    def gates_do(self, stop: Stop, fn: Callable[[], object]) -> None:
        self.runs[0].do(fn)

    def open_gates(self) -> None:
        self.runs[0].do(self.gates.open)


# With threads


class WithThreads(Machine):
    """Two runs of trio with real worker threads on a real filesystem."""

    repeatable = False

    counts: ClassVar[Counter[str]] = Counter()
    gates: ThreadGates

    def set_up(self) -> None:
        fast = "/dev/shm"  # noqa: S108 - a directory of our own is made there
        where = fast if os.access(fast, os.W_OK) else None
        self.root = tempfile.mkdtemp(prefix="trio-mkdir-", dir=where)
        self.gates = ThreadGates(registry.operating_system, self._lost)
        self.runs = [Run(), Run()]

    def _lost(self, path: AnyPath) -> None:
        self.model.is_nobodys(self.real(path))

    def prepare(self, before: list[str]) -> None:
        self.reuses_inodes = False
        for path in ["", *before]:
            os.makedirs(self.full(f"tree/{path}"), exist_ok=True)
        for link, leads_to in LINKS.items():
            os.symlink(leads_to, self.full(link))

    def tear_down(self) -> None:
        shutil.rmtree(self.root)

    def tree(self) -> dict[str, int]:
        return tree_below(self.full("tree"))

    def _busy(self) -> bool:
        mount = registry.operating_system.mount(self.root)
        in_use = sum(run.workers_in_use(mount) for run in self.runs)
        paying = sum(workers.paying for workers in list(registry.workers._workers.values()))
        return in_use + paying != len(self.gates.stops)

    def wait_quiet(self) -> None:
        deadline = time.monotonic() + PATIENCE
        quiet = 0
        while quiet < 2:  # a run that was quiet may have been woken by another
            for run in self.runs:
                run.until_blocked()
            quiet = 0 if self._busy() else quiet + 1
            if not quiet:
                assert time.monotonic() < deadline, "threads are neither held nor done"
                time.sleep(0.00005)

    def gates_do(self, stop: Stop, fn: Callable[[], object]) -> None:
        fn()

    def open_gates(self) -> None:
        self.gates.open()


@pytest.mark.parametrize(
    ("machine", "examples", "steps"), [(WithoutThreads, 100, 30), (WithThreads, 30, 25)]
)
def test_the_tree_ends_as_the_model_says(
    machine: type[Machine],
    examples: int,
    steps: int,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    machine.counts.clear()
    caplog.set_level(logging.CRITICAL, "trio_mkdir")  # it says a lot, and rightly
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=2000 if NIGHTLY else examples,
            stateful_step_count=50 if NIGHTLY else steps,
            deadline=None,
            report_multiple_bugs=False,
            # What threads did cannot be repeated, and so not be made smaller.
            phases=set(Phase) - (set() if machine.repeatable else {Phase.shrink, Phase.explain}),
            suppress_health_check=list(HealthCheck),
        ),
    )
    with capsys.disabled():
        print(f"\n{machine.__name__}: {dict(machine.counts)}")
    assert machine.counts["successes"]


@pytest.mark.parametrize("machine", [WithoutThreads, WithThreads])
@pytest.mark.parametrize("fails", [0, 1])
def test_what_two_blocks_share_stands_if_one_ends_well(machine: type[Machine], fails: int) -> None:
    """One program that is always played, whatever the random ones come to."""
    played = machine()
    try:
        call = ("tree/a/a", True, True, False)
        played.begin(before=[], reuses_inodes=True, blocks=2, first=[(*call, 0, 0), (*call, 1, 0)])
        while played.gates.stops:
            played.let_everybody_run()
        played.end_block(number=fails, how="raises")
        while played.gates.stops:
            played.let_everybody_run()
    finally:
        played.teardown()  # ends the other one well, and compares
    assert played.model.required == {"a", "a/a"}
