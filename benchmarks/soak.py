"""Random calls, faults and cancellations, against the promise of what the tree is afterwards.

    python benchmarks/soak.py --seconds 600 --seed 1
    python benchmarks/soak.py --seconds 60 --where /dev/shm --where /tmp
    python benchmarks/soak.py --seconds 60 --fuse
    python benchmarks/soak.py --seconds 60 --seed 1 --round 4711

It goes round by round. Each round draws a schedule from the seed and its number: a few threads,
each running trio, each with a few tasks that make directories with and without rollback nurseries,
under few names so that everybody is in everybody's way, also through symbolic links, on one
filesystem or several at once. Calls are cancelled from within and from other tasks and threads,
system calls are delayed, held and answered with errors, on a FUSE filesystem also in the kernel,
and others make and remove directories without the library. When all of it has ended and nothing is
owed any more, the tree is compared with the model in ``tests/model.py``.

A difference ends the run with exit status 1, after printing the seed, the round, its schedule and
everything that happened in it. ``--round`` plays that one schedule again and again; how the threads
interleave is the machine's choice, so it may take many repetitions.
"""

from __future__ import annotations

import argparse
import errno
import itertools
import logging
import math
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import attrs
import trio

import trio_mkdir
from trio_mkdir import BackoffPolicy, Policy, RootCause
from trio_mkdir._paths import AnyPath
from trio_mkdir._registry import registry

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from filesystems.fuse import FuseMount, fuse_mount
from model import Difference, Model, prefixes, tree_below

T = TypeVar("T")

NAMES: Final = "abc"
DEPTH: Final = 4
PATIENCE: Final = 10.0
"""Seconds within which a round settles, or never will."""


# Schedules: what a round does, drawn from its seed before it starts


@attrs.frozen
class Faults:
    """How often a system call does not do what it is asked at once; each is a probability."""

    delay: float = 0.0
    longest_delay: float = 0.001
    hold: float = 0.0
    longest_hold: float = 0.05
    mkdir: float = 0.0
    """Answered with an error, before anything is done."""
    rmdir: float = 0.0
    look: float = 0.0
    """The same for ``stat`` and ``lstat``."""
    lose: float = 0.0
    """A ``mkdir`` does its work and answers an error."""


@attrs.frozen
class Make:
    """One call of ``makedirs`` or ``mkdir``."""

    path: str
    parents: bool
    exist_ok: bool
    policy: int
    cancel_after: float | None
    """Seconds; None for never, negative for before it begins."""
    soon: bool = False
    """Inside a block: as a task of its nursery."""


@attrs.frozen
class Block:
    """A rollback nursery, and what is done inside."""

    steps: tuple[Step, ...]
    policy: int
    ends: str
    """``"well"``, ``"raises"`` or ``"cancels"``."""
    cancel_after: float | None
    undo: tuple[str | None, ...]
    """The compensation pushed after each step: ``"sync"``, ``"async"``, ``"fails"`` or none."""


@attrs.frozen
class Pause:
    """A moment in which others go on."""

    seconds: float


@attrs.frozen
class Strike:
    """Cancel a call of any task of any thread, whichever it meets."""

    which: float


@attrs.frozen
class Others:
    """Somebody who does not use the library makes or removes a directory."""

    path: str
    make: bool


Step: TypeAlias = Make | Block | Pause | Strike | Others
Task: TypeAlias = tuple[Step, ...]


@attrs.frozen
class Schedule:
    """Everything that a round draws. Its paths begin with the number of a filesystem."""

    before: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    faults: Faults
    policies: tuple[Policy, ...]
    threads: tuple[tuple[Task, ...], ...]
    switch_interval: float


QUICK_RETRIES: Final = {
    cause: BackoffPolicy(initial=0.0005, multiplier=2, maximum=0.002, max_retries=6)
    for cause in (
        RootCause.BUSY,
        RootCause.NO_SPACE,
        RootCause.NO_RESOURCES,
        RootCause.STALE,
        RootCause.TIMED_OUT,
    )
} | {RootCause.VANISHED: BackoffPolicy.constant(0, max_retries=10)}

PASSING: Final = [errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ENOSPC, errno.ENOMEM, errno.ESTALE]
LASTING: Final = [errno.EACCES, errno.EROFS, errno.EIO, errno.EMLINK, errno.ENOTCONN]
LOST: Final = [errno.EINTR, errno.EIO, errno.ETIMEDOUT, errno.ESTALE, errno.EISDIR]


class Draw:
    """Draws schedules."""

    def __init__(self, random: random.Random, threads: int, filesystems: int) -> None:
        self._random = random
        self._threads = threads
        first = random.randrange(filesystems)
        self._filesystems = random.choice([[first], list(range(filesystems))])
        # Few names in most rounds: then everybody meets.
        self._names = NAMES[: random.choice([1, 2, 2, 3])]
        self._depth = random.choice([2, 3, 3, DEPTH])
        self._others = random.choice(["none"] * 5 + ["make", "remove", "both"])
        self._cancels = random.choice([0.0, 0.2, 0.5, 0.8])

    def schedule(self) -> Schedule:
        """What is done in one round."""
        rng = self._random
        aliases = rng.choice([[], [], ["alias"], ["alias", "deep"]])
        self._roots = ["tree", "tree", *aliases]
        links = {"alias": "tree", "deep": "tree/" + self._inside(rng.randint(1, 2))}
        policies = tuple(self._policy() for _ in range(rng.randint(1, 3)))
        self._policies = len(policies)
        return Schedule(
            before=tuple(self._somewhere() for _ in range(rng.choice([0, 0, 0, 1, 2]))),
            links=tuple((alias, links[alias]) for alias in aliases),
            faults=self._faults(),
            policies=policies,
            threads=tuple(
                tuple(self._task() for _ in range(rng.randint(1, 3)))
                for _ in range(rng.randint(1, self._threads))
            ),
            switch_interval=rng.choice([0.005, 0.0001, 0.000001]),
        )

    def _inside(self, depth: int | None = None) -> str:
        names = self._random.choices(self._names, k=depth or self._random.randint(1, self._depth))
        return "/".join(names)

    def _path(self) -> str:
        where = self._random.choice(self._filesystems)
        return f"{where}/{self._random.choice(self._roots)}/{self._inside()}"

    def _somewhere(self) -> str:
        return f"{self._random.choice(self._filesystems)}/{self._inside()}"

    def _policy(self) -> Policy:
        rng = self._random
        return Policy(
            step_timeout=rng.choice([5.0, 5.0, 0.02, 0.005, 0.0005]),
            rollback_timeout=rng.choice([1.0, 1.0, 0.0, 0.0005, 0.005, 0.02]),
            retries=QUICK_RETRIES,
            budget=None,
            workers=rng.choice([40, 40, 2, 1]),
            stall_after=rng.choice([1000, 8]),
        )

    def _faults(self) -> Faults:
        rng = self._random
        kind = rng.choice(["none", "delays", "delays", "holds", "errors", "looks", "lost", "all"])
        faults = Faults()
        if kind in {"delays", "holds", "errors", "looks", "lost", "all"}:
            faults = Faults(
                delay=rng.choice([0.1, 0.3, 0.6]), longest_delay=rng.choice([0.0003, 0.001, 0.003])
            )
        if kind in {"holds", "all"}:
            faults = attrs.evolve(faults, hold=rng.choice([0.03, 0.1]))
        if kind in {"errors", "all"}:
            faults = attrs.evolve(faults, mkdir=rng.choice([0.05, 0.2]), rmdir=0.05)
        if kind in {"looks", "all"}:
            faults = attrs.evolve(faults, look=rng.choice([0.03, 0.1]))
        if kind == "lost":
            faults = attrs.evolve(faults, lose=0.05)
        return faults

    def _delay(self) -> float:
        return self._random.choice([0, 0, 0.0001, 0.0003, 0.001, 0.003]) * self._random.random()

    def _cancel_after(self) -> float | None:
        if self._random.random() >= self._cancels:
            return None
        return self._random.choice([-1.0, self._delay(), self._delay(), self._delay()])

    def _task(self) -> Task:
        return tuple(self._step(0) for _ in range(self._random.randint(1, 4)))

    def _step(self, depth: int) -> Step:
        rng = self._random
        kind = rng.random()
        if kind < 0.15:
            return Pause(self._delay())
        if kind < 0.22:
            return Strike(rng.random())
        if kind < 0.30 and self._others != "none":
            make = self._others == "make" or (self._others == "both" and rng.random() < 0.5)
            return Others(self._somewhere(), make)
        if kind < 0.50 and depth < 2:
            steps = tuple(self._step(depth + 1) for _ in range(rng.randint(1, 3)))
            return Block(
                steps,
                rng.randrange(self._policies),
                rng.choice(["well", "well", "raises", "cancels"]),
                self._cancel_after(),
                tuple(rng.choice([None, None, "sync", "async", "fails"]) for _ in steps),
            )
        return Make(
            self._path(),
            parents=rng.random() < 0.85,
            exist_ok=rng.random() < 0.7,
            policy=rng.randrange(self._policies),
            cancel_after=self._cancel_after(),
            soon=rng.random() < 0.4,
        )


# The filesystem between the library and the kernel


class Chaos:
    """The real filesystem, which delays, holds and refuses at random and writes everything down."""

    turn = None

    def __init__(self, roots: Iterable[str], faults: Faults, seed: str, record: Record) -> None:
        self._roots = tuple(roots)
        self._faults = faults
        self._record = record
        self._random = random.Random(seed)  # noqa: S311 - a schedule, not a secret
        self._released = threading.Event()

    def release(self) -> None:
        """Nothing is held any more."""
        self._released.set()

    def mkdir(self, path: AnyPath, mode: int) -> None:
        """`os.mkdir`."""
        faults = self._faults
        if self._happens(faults.lose):
            os.mkdir(path, mode)
            number = self._random.choice(LOST)
            self._record.lost(path)
            self._record.operation("mkdir", path, f"done, and answered {errno.errorcode[number]}")
            raise OSError(number, os.strerror(number), path)
        self._do("mkdir", path, faults.mkdir, partial(os.mkdir, path, mode))

    def rmdir(self, path: AnyPath) -> None:
        """`os.rmdir`."""
        self._do("rmdir", path, self._faults.rmdir, partial(os.rmdir, path))

    def stat(self, path: AnyPath) -> os.stat_result:
        """`os.stat`."""
        return self._do("stat", path, self._faults.look, partial(os.stat, path))

    def lstat(self, path: AnyPath) -> os.stat_result:
        """`os.lstat`."""
        return self._do("lstat", path, self._faults.look, partial(os.lstat, path))

    def statvfs(self, path: AnyPath) -> os.statvfs_result:
        """`os.statvfs`."""
        return os.statvfs(path)

    def sleep(self, seconds: float) -> None:
        """`time.sleep`."""
        time.sleep(seconds)

    def mount(self, path: AnyPath) -> trio_mkdir.Mount:
        """The real one."""
        return registry.operating_system.mount(path)

    def _happens(self, probability: float) -> bool:
        return bool(probability) and self._random.random() < probability

    def _do(self, name: str, path: AnyPath, refused: float, do: Callable[[], T]) -> T:
        self._wait()
        if self._happens(refused) and str(path).startswith(self._roots):
            number = self._random.choice(PASSING if self._random.random() < 0.8 else LASTING)
            self._record.counts["faults"] += 1
            self._record.operation(name, path, f"refused with {errno.errorcode[number]}")
            raise OSError(number, os.strerror(number), path)
        try:
            result = do()
        except OSError as error:
            self._record.operation(name, path, errno.errorcode.get(error.errno or 0, "?"))
            self._wait()
            raise
        inode = f" inode {result.st_ino}" if isinstance(result, os.stat_result) else ""
        self._record.operation(name, path, "done" + inode)
        self._wait()
        return result

    def _wait(self) -> None:
        if self._happens(self._faults.delay):
            time.sleep(self._random.random() * self._faults.longest_delay)
        if self._happens(self._faults.hold):
            self._record.counts["holds"] += 1
            self._released.wait(self._random.random() * self._faults.longest_hold)


# What happened


class Record:
    """Everything that happened in one round, for the model and for whoever has to find out why."""

    def __init__(
        self, roots: Sequence[str], links: Iterable[tuple[str, str]], counts: Counter[str]
    ) -> None:
        self._roots = roots
        self._links = dict(links)
        self.counts = counts
        self.lines: list[tuple[float, str, str]] = []
        self.crashes: list[str] = []
        self.model = Model({})
        self.compensated: list[int] = []
        self.compensating = threading.Lock()
        self.numbers = itertools.count()
        self.may_hang = False
        """Whether looking at the tree may take its time."""
        self._lock = threading.Lock()
        self._scopes: dict[trio.CancelScope, trio.lowlevel.TrioToken] = {}

    def say(self, text: str) -> None:
        """Write down what happens now."""
        self.lines.append((time.monotonic(), threading.current_thread().name, text))

    def operation(self, name: str, path: AnyPath, outcome: str) -> None:
        """Write down what a system call was answered."""
        self.say(f"    {name} {self.short(path)}: {outcome}")

    def observe(self, event: trio_mkdir.Event) -> None:
        """What the library tells."""
        details = {
            name: value
            for name, value in attrs.asdict(event, recurse=False).items()
            if name not in {"call", "time", "path"}
        }
        kind = type(event).__name__
        self.say(f"  call {event.call} {kind} {self.short(event.path)} {details or ''}")
        if isinstance(event, trio_mkdir.Kept) and event.errno is not None:
            self.counts["refused rollbacks"] += 1
            self.model.is_nobodys(self.real(event.path))
        elif isinstance(event, trio_mkdir.DebtTaken):
            self.counts["debts"] += 1
        elif isinstance(event, trio_mkdir.Removed):
            self.counts["undone"] += 1

    def lost(self, path: AnyPath) -> None:
        """A ``mkdir`` has made ``path`` and says that it has not."""
        self.counts["lost replies"] += 1
        self.model.is_nobodys(self.real(path))

    def short(self, path: AnyPath) -> str:
        """The number of the filesystem, and ``path`` on it."""
        text = os.fsdecode(path)
        for number, root in enumerate(self._roots):
            if text.startswith(f"{root}/"):
                return f"{number}/{os.path.relpath(text, root)}"
        return text

    def full(self, path: str) -> str:
        """The opposite of `short`."""
        number, _, rest = path.partition("/")
        return os.path.join(self._roots[int(number)], rest)

    def tree(self) -> dict[str, int]:
        """All trees in one."""
        trees: dict[str, int] = {}
        for number, root in enumerate(self._roots):
            tree = os.path.join(root, "tree")
            trees[str(number)] = os.stat(tree).st_ino
            trees |= {f"{number}/{path}": inode for path, inode in tree_below(tree).items()}
        return trees

    def real(self, path: AnyPath) -> str:
        """``path`` relative to all trees, as it is without symbolic links."""
        number, _, short = self.short(path).partition("/")
        head, _, rest = short.partition("/")
        while head != "tree":
            head, _, more = self._links[head].partition("/")
            rest = "/".join(filter(None, [more, rest]))
        return "/".join(filter(None, [number, rest]))

    @contextmanager
    def can_be_struck(self, scope: trio.CancelScope) -> Iterator[None]:
        """Let `strike` cancel ``scope`` inside the block."""
        with self._lock:
            self._scopes[scope] = trio.lowlevel.current_trio_token()
        try:
            yield
        finally:
            with self._lock:
                del self._scopes[scope]

    def strike(self, which: float) -> None:
        """Cancel one of those that can be struck."""
        with self._lock:
            if not self._scopes:
                return
            scope, token = list(self._scopes.items())[int(which * len(self._scopes))]
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(scope.cancel)
        self.counts["strikes"] += 1


# Playing a schedule


class Planned(Exception):
    """What a block that is to fail raises."""


@attrs.define(eq=False)
class Within:
    """The rollback nursery around a step, and what has succeeded inside so far."""

    nursery: trio_mkdir.RollbackNursery
    succeeded: list[tuple[str, int]] = attrs.field(factory=list)
    pushed: list[int] = attrs.field(factory=list)
    """The compensations that are to run, the highest number first, if the block fails."""


class Player:
    """Plays the tasks of one thread."""

    def __init__(self, policies: Sequence[Policy], record: Record) -> None:
        self._policies = policies
        self._record = record

    async def play(self, tasks: Iterable[Task]) -> None:
        """Play them at once, until all have ended."""
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(self._steps, task, None)

    async def _steps(self, steps: Iterable[Step], within: Within | None) -> None:
        for step in steps:
            if isinstance(step, Make):
                if within is not None and step.soon:
                    within.nursery.start_soon(self._make, step, within)
                else:
                    await self._make(step, within)
            elif isinstance(step, Block):
                await self._block(step, within)
            elif isinstance(step, Pause):
                await trio.sleep(step.seconds)
            elif isinstance(step, Strike):
                self._record.strike(step.which)
            else:
                self._others(step)

    def _others(self, step: Others) -> None:
        number, _, inside = step.path.partition("/")
        path = self._record.full(f"{number}/tree/{inside}")
        with suppress(OSError):
            if step.make:
                os.mkdir(path)
                self._record.model.others_made(step.path)
                self._record.operation("others mkdir", path, "done")
            else:
                self._record.operation("others rmdir", path, "begins")
                os.rmdir(path)
                self._record.model.others_removed(step.path)
                self._record.operation("others rmdir", path, "done")

    @contextmanager
    def _cancelled(self, after: float | None) -> Iterator[trio.CancelScope]:
        scope = trio.CancelScope()
        if after is not None and after < 0:
            scope.cancel()
        elif after is not None:
            scope.deadline = trio.current_time() + after
        with scope, self._record.can_be_struck(scope):
            yield scope
        if scope.cancelled_caught:
            self._record.counts["cancellations"] += 1

    async def _make(self, step: Make, within: Within | None) -> None:
        record, policy = self._record, self._policies[step.policy]
        path = record.full(step.path)
        real = record.real(path)
        began = record.model.call_begins()
        record.counts["calls"] += 1
        record.say(f"begin {step}")
        called_at = time.monotonic()
        with self._cancelled(step.cancel_after) as scope:
            try:
                if within is not None and step.parents:
                    await within.nursery.makedirs(path, exist_ok=step.exist_ok)
                elif within is not None:
                    await within.nursery.mkdir(path, exist_ok=step.exist_ok)
                elif step.parents:
                    await trio_mkdir.makedirs(path, exist_ok=step.exist_ok, policy=policy)
                else:
                    await trio_mkdir.mkdir(path, exist_ok=step.exist_ok, policy=policy)
            except trio_mkdir.MkdirError as error:
                record.counts["failures"] += 1
                record.say(f"end {step.path}: {type(error).__name__}: {error}")
            else:
                record.counts["successes"] += 1
                if within is None:
                    record.model.call_succeeded(real, began)
                else:
                    within.succeeded.append((real, began))
                record.say(f"end {step.path}: success")
        if scope.cancelled_caught:
            record.say(f"end {step.path}: cancelled")
        waited = time.monotonic() - called_at
        record.counts["longest call, ms"] = max(
            record.counts["longest call, ms"], math.ceil(waited * 1000)
        )

    async def _block(self, step: Block, around: Within | None) -> None:
        record = self._record
        record.say(f"begin block, {step.ends}")
        within: Within | None = None
        ended = False
        try:
            # Inside, so that what is not a cancellation is all that comes out of it.
            with self._cancelled(step.cancel_after):
                async with trio_mkdir.open_rollback_nursery(
                    policy=self._policies[step.policy]
                ) as nursery:
                    within = Within(nursery)
                    for number, inner in enumerate(step.steps):
                        await self._steps([inner], within)
                        kind = step.undo[number]
                        if kind is not None:
                            self._push_undo(within, kind)
                    if step.ends == "raises":
                        raise Planned
                    if step.ends == "cancels":
                        nursery.cancel_scope.cancel()
                ended = not nursery.cancel_scope.cancel_called
        except Exception as failure:  # noqa: BLE001 - told, if it was not planned
            record.say(f"block failed with {failure!r}")
            expected = (Planned, trio_mkdir.RollbackError)
            if not all(isinstance(each, expected) for each in leaves(failure)):
                record.crashes.append(crash_text(failure))
        if ended and within is not None:
            record.say("block ended well")
            self._check_undone(within, [])
            if around is not None:
                around.pushed += within.pushed
            for real, began in within.succeeded:
                if around is None:
                    record.model.call_succeeded(real, began)
                else:
                    around.succeeded.append((real, began))
        else:
            record.counts["rollbacks"] += 1
            record.say("block undone")
            if within is not None:
                self._check_undone(within, sorted(within.pushed, reverse=True))

    def _check_undone(self, within: Within, expected: list[int]) -> None:
        with self._record.compensating:
            ran = [number for number in self._record.compensated if number in within.pushed]
        if ran != expected:
            self._record.crashes.append(f"compensations {expected} ran as {ran}")

    def _push_undo(self, within: Within, kind: str) -> None:
        record = self._record
        with record.compensating:
            number = next(record.numbers)
        stands = {prefix for path, _ in within.succeeded for prefix in prefixes(path)}

        def now() -> None:
            record.say(f"compensation {number}")
            with record.compensating:
                record.compensated.append(number)
            record.counts["compensations"] += 1
            if not record.may_hang:
                for path in stands - record.tree().keys() - record.model.removed_by_others:
                    record.crashes.append(f"{path} was undone before what came after it")
            if kind == "fails":
                raise LookupError("a compensation that fails")

        async def later() -> None:
            now()
            await trio.lowlevel.checkpoint()

        within.nursery.push_undo(later if kind == "async" else now)
        within.pushed.append(number)


@attrs.frozen
class Outcome:
    """How a round ended."""

    differences: tuple[Difference, ...]
    crashes: tuple[str, ...]
    record: Record

    @property
    def well(self) -> bool:
        """Whether nothing is wrong."""
        return not self.differences and not self.crashes


class Hangs:
    """Requests to a FUSE filesystem that its server does not answer for a while."""

    def __init__(self, mount: FuseMount, random: random.Random, counts: Counter[str]) -> None:
        self._over = threading.Event()
        self._mount = mount
        self._random = random
        self._counts = counts
        self._thread = threading.Thread(target=self._hang, name="hangs", daemon=True)
        self._thread.start()

    def _hang(self) -> None:
        rng = self._random
        while not self._over.is_set():
            operation = rng.choice(["mkdir", "mkdir", "mkdir", "rmdir", "getattr"])
            hold = self._mount.hold(operation, after=rng.random() < 0.5)
            self._over.wait(rng.choice([0.002, 0.01, 0.05]))
            self._counts["requests that hung"] += len(hold.arrived)
            hold.release()
            self._over.wait(rng.choice([0.001, 0.005]))

    def end(self) -> None:
        """Let everything be answered."""
        self._over.set()
        self._thread.join(PATIENCE)
        self._mount.clear()


def play(
    schedule: Schedule,
    roots: Sequence[str],
    seed: str,
    counts: Counter[str],
    hanging: FuseMount | None = None,
) -> Outcome:
    """Play one round in empty directories, one on each filesystem."""
    for root in roots:
        os.mkdir(os.path.join(root, "tree"))
        for alias, leads_to in schedule.links:
            os.symlink(leads_to, os.path.join(root, alias))
    record = Record(roots, schedule.links, counts)
    for path in schedule.before:
        number, _, inside = path.partition("/")
        os.makedirs(record.full(f"{number}/tree/{inside}"), exist_ok=True)
    record.model = Model(record.tree())
    record.may_hang = hanging is not None
    chaos = Chaos(roots, schedule.faults, seed, record)
    policies = [
        attrs.evolve(policy, filesystem=chaos, observers=(record.observe,))
        for policy in schedule.policies
    ]

    def run(tasks: tuple[Task, ...]) -> None:
        try:
            trio.run(Player(policies, record).play, tasks)
        except BaseException as crash:  # noqa: BLE001 - told, with its round  # noqa: ASYNC103
            record.crashes.append(f"{threading.current_thread().name}: {crash_text(crash)}")

    threads = [
        threading.Thread(target=run, args=(tasks,), name=f"run {number}", daemon=True)
        for number, tasks in enumerate(schedule.threads)
    ]
    before = sys.getswitchinterval()
    sys.setswitchinterval(schedule.switch_interval)
    deadline = time.monotonic() + PATIENCE
    hangs = Hangs(hanging, random.Random(seed), counts) if hanging else None  # noqa: S311
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                record.crashes.append(f"{thread.name} never ended")
        chaos.release()
        if hangs is not None:
            hangs.end()
        if not trio.run(settled):
            record.crashes.append(f"never settled: {trio_mkdir.pending_rollbacks()}")
    finally:
        sys.setswitchinterval(before)
    record.say("settled")
    differences = record.model.differences(record.tree())
    if differences:
        time.sleep(0.5)
        later = record.model.differences(record.tree())
        if not later:
            record.crashes.append("it settled only after nothing was owed any more")
    return Outcome(tuple(differences), tuple(record.crashes), record)


async def settled() -> bool:
    """Whether everything settles in time."""
    with trio.move_on_after(PATIENCE):
        await trio_mkdir.wait_settled()
        return True
    return False


def leaves(failure: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, or the one that is none."""
    inside: Sequence[BaseException] | None = getattr(failure, "exceptions", None)
    if inside is None:
        yield failure
    for each in inside or ():
        yield from leaves(each)


def crash_text(crash: BaseException) -> str:
    """``crash`` as a traceback tells it."""
    import traceback  # noqa: PLC0415 - once at most

    return "".join(traceback.format_exception(crash))


# The whole


def leaks(descriptors: set[str]) -> list[str]:
    """What is left in the process after everything has settled."""
    found = []
    deadline = time.monotonic() + 5
    while True:
        busy = [thread.name for thread in threading.enumerate() if thread.name == "trio_mkdir"]
        if not busy or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    if busy:
        found.append(f"{len(busy)} worker threads are busy")
    if open_descriptors() - descriptors:
        found.append(f"descriptors {open_descriptors() - descriptors}")
    if registry.tree.statistics != (0, 0):
        found.append(f"active calls and known directories: {registry.tree.statistics}")
    if trio_mkdir.pending_rollbacks():
        found.append(f"debts: {trio_mkdir.pending_rollbacks()}")
    if registry.workers.stuck_in():
        found.append(f"stuck: {registry.workers.stuck_in()}")
    found += [
        f"{workers.stuck} stuck workers on {workers.mount}"
        for workers in registry.workers._workers.values()  # noqa: SLF001 - to look for leaks
        if workers.stuck
    ]
    return found


def open_descriptors() -> set[str]:
    """The file descriptors of this process."""
    try:
        return set(os.listdir("/proc/self/fd"))
    except OSError:
        return set()


def report(outcome: Outcome, schedule: Schedule, seed: int, number: int) -> None:
    """Print all that is known of a round that went wrong."""
    print(f"\nVIOLATION in round {number} of seed {seed}")
    for difference in outcome.differences:
        print(f"  {difference}")
    for crash in outcome.crashes:
        print(f"  {crash}")
    print(f"\n{schedule}\n")
    lines = sorted(outcome.record.lines, key=lambda line: line[0])
    start = lines[0][0] if lines else 0.0
    for at, thread, text in lines:
        print(f"{(at - start) * 1000:9.3f} {thread:12} {text}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak for as long as is asked for; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--round", type=int, help="play only this one, again and again")
    parser.add_argument(
        "--where",
        action="append",
        metavar="DIR",
        help="default: /dev/shm, or the temporary directory",
    )
    parser.add_argument("--fuse", action="store_true", help="on a FUSE filesystem too")
    parser.add_argument("--threads", type=int, default=3, help="at most so many run trio at once")
    parser.add_argument(
        "--keep-going", action="store_true", help="count violations, print each in one line"
    )
    options = parser.parse_args(arguments)
    in_memory = "/dev/shm"  # noqa: S108 - a directory of our own is made there
    where = options.where or [in_memory if os.path.isdir(in_memory) else tempfile.gettempdir()]
    # What it warns of is written down with the round, and printed if there is a difference.
    logging.getLogger("trio_mkdir").setLevel(logging.CRITICAL)
    counts: Counter[str] = Counter()
    descriptors = open_descriptors()
    started = time.monotonic()
    with ExitStack() as stack:
        places = [
            stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-", dir=each))
            for each in where
        ]
        fuse: FuseMount | None = None
        if options.fuse:
            # On a filesystem that does not reuse inode numbers at once, if there is one: what
            # others remove and make again on another cannot be told apart.
            behind = stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-", dir=where[0]))
            fuse = stack.enter_context(fuse_mount(Path(behind)))
            places.append(str(fuse.path))
        number = 0
        while time.monotonic() < started + options.seconds:
            which = number if options.round is None else options.round
            rng = random.Random(f"{options.seed}:{which}")  # noqa: S311
            schedule = Draw(rng, options.threads, len(places)).schedule()
            hanging = fuse if rng.random() < 0.5 else None
            roots = [os.path.join(place, str(number)) for place in places]
            for root in roots:
                os.mkdir(root)
            outcome = play(schedule, roots, f"{options.seed}:{which}", counts, hanging)
            counts["rounds"] += 1
            if not outcome.well:
                counts["violations"] += 1
                if not options.keep_going:
                    report(outcome, schedule, options.seed, which)
                    break
                print(f"round {which}:", *outcome.differences, *outcome.crashes, sep="  ")
            for root in roots:
                shutil.rmtree(root)
            number += 1
        if fuse is not None:
            stack.close()
        left = leaks(descriptors)
    for name in left:
        print(f"LEAKED {name}")
    print(f"seed {options.seed}, {time.monotonic() - started:.0f} s")
    for name, count in sorted(counts.items()):
        print(f"{count:9} {name}")
    print(f"{counts['violations']:9} violations")
    return 1 if left or counts["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
