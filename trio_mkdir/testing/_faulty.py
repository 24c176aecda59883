"""The filesystem double that does what its script says.

One operation is a small program that yields whatever it has to wait for, so that a worker thread
can block there and a task can await there: what happens is the same.
"""

from __future__ import annotations

import os
import stat
import threading
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import attrs
import trio

from trio_mkdir._paths import parent_of
from trio_mkdir._registry import registry

from ._locks import Claim, DirectoryLocks
from ._memory import MemoryFilesystem
from ._mount_points import MountPoints
from ._script import (
    OPERATIONS,
    Answer,
    Delay,
    Hold,
    Interference,
    Nth,
    Picked,
    Rule,
    Script,
    When,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Hashable, Iterator

    from trio_mkdir import Mount
    from trio_mkdir._makedirs import StrOrBytesPath
    from trio_mkdir._os import Filesystem
    from trio_mkdir._paths import AnyPath

    from ._news import News
    from ._script import Wait

T = TypeVar("T")

_ANY_MODE: Final = 0o777


@attrs.frozen
class OperationRecord:
    """One operation that was asked of a `FaultyFilesystem`."""

    operation: str
    """``"mkdir"``, ``"rmdir"``, ``"stat"``, ``"lstat"``, ``"statvfs"``, or a name given to
    `FaultyFilesystem.perform`."""
    path: AnyPath
    """As it was asked for."""
    errno: int | None = None
    """What was answered; None for success, and as long as it is not answered."""
    answered: bool = True
    """Whether it has returned."""


class _Call:
    """One operation on its way."""

    def __init__(self, operation: str, path: AnyPath, picked: Picked) -> None:
        self.operation = operation
        self.path = path
        self.picked = picked
        self.at_once = False
        """Whether nobody can wait any more, so that no locks are asked for either."""
        self.steps: Iterator[Wait] = iter(())
        self.claim: Claim | None = None
        """The locks that it has."""
        self.done = False
        """Whether it has taken effect, or been refused."""
        self.value: object = None
        self.error: OSError | None = None
        self.answered = False

    @property
    def record(self) -> OperationRecord:
        number = self.error.errno if self.error is not None and self.answered else None
        return OperationRecord(self.operation, self.path, number, self.answered)

    def carry_out(self, do: Callable[[], object]) -> None:
        """Have the effect, or be refused, as the script says."""
        answer = self.picked.answer
        if answer is None or answer.lost_reply:
            try:
                self.value = do()
            except OSError as error:
                self.error = error
        self.done = True
        self.obey(answer)

    def obey(self, answer: Answer | None) -> None:
        """Have the errno that the script says, if it says one."""
        if answer is not None:
            self.error = OSError(answer.errno, os.strerror(answer.errno), self.path)

    def answer(self) -> object:
        """Return or raise what was answered."""
        self.answered = True
        if self.error is not None:
            if self.error.filename is None:
                self.error.filename = self.path
            raise self.error
        return self.value


class FaultyFilesystem:
    """A filesystem double that fails, is slow, hangs and loses replies as it is told.

    It takes the place of the operating system for the calls that get it in their policy, and
    keeps a record of all that they ask for::

        filesystem = FaultyFilesystem(threads=False)
        filesystem.memory.add_directory("/srv")
        filesystem.fail("mkdir", "/srv/a/*", errno.EIO)
        policy = trio_mkdir.Policy(filesystem=filesystem)
        with pytest.raises(OSError, match="Input/output error"):
            await trio_mkdir.makedirs("/srv/a/b", policy=policy)
        assert filesystem.memory.paths() == ["/srv"]

    ``FaultyFilesystem()`` is in memory and empty at first, `wrap` gives one around the real
    filesystem. In both, as in the kernel, a `mkdir` or `rmdir` that is delayed or held keeps its
    directory locked: whoever wants to look something up, make or remove something in there, or
    remove the directory, waits until it returns. So nobody finds a directory whose `mkdir` has
    not returned.

    Rules (`fail`, `lose_reply`, `fail_nth`, `delay`, `hold`, `interfere`) name operations and
    paths by patterns of `fnmatch`, in which ``*`` also matches a slash. An operation takes one
    rule of each kind, the one given first among those that still apply. All methods but `perform`
    may be called from any thread.

    Args:
      threads: Whether the library calls it in worker threads, as it does the real one: then
          delays and holds block these. Without threads they are `trio.sleep` and waiting in a
          task, every operation is a checkpoint, and trio's autojump clock can be used.
    """

    def __init__(self, *, threads: bool = True) -> None:
        self._begin_with(MemoryFilesystem(), threads=threads)

    @classmethod
    def wrap(
        cls, filesystem: Filesystem | None = None, *, threads: bool = True
    ) -> FaultyFilesystem:
        """Make one that hands on to another filesystem whatever its script does not refuse.

        Args:
          filesystem: None for the operating system's, or for example a `MemoryFilesystem` of one's
              own.
          threads: As above. Without threads, a real filesystem that hangs makes the program hang.
        """
        self = cls.__new__(cls)
        self._begin_with(filesystem or registry.operating_system, threads=threads)
        return self

    def _begin_with(self, backing: Filesystem, *, threads: bool) -> None:
        self._backing = backing
        self._threads = threads
        self._lock = threading.Lock()
        self._calls: list[_Call] = []
        self._script = Script()
        self._locks = DirectoryLocks()
        self._mounts = MountPoints()
        self._announced: dict[trio.lowlevel.Task, _Call] = {}
        self._owed_sleep: dict[trio.lowlevel.Task, float] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} around {self._backing!r}>"

    @property
    def memory(self) -> MemoryFilesystem:
        """The tree, for a test to prepare and to look at.

        Raises:
          RuntimeError: It is not in memory.
        """
        if not isinstance(self._backing, MemoryFilesystem):
            raise RuntimeError(f"{self!r} is not in memory")  # noqa: TRY004 - not about a type
        return self._backing

    @property
    def operations(self) -> tuple[OperationRecord, ...]:
        """Every operation so far, in the order in which they were begun."""
        with self._lock:
            return tuple([call.record for call in self._calls])

    # The script

    def fail(
        self, operation: str, pattern: StrOrBytesPath, errno: int, *, times: float = 1
    ) -> Rule:
        """Answer ``errno`` to the next so many matching operations, without carrying them out.

        Args:
          operation: A pattern for the operation's name: ``"mkdir"``, ``"*stat"``, ``"*"``.
          pattern: A pattern for its path, as the library asks for it: absolute.
          errno: What to answer.
          times: How often; `math.inf` for always.

        Returns:
          The rule, whose ``hits`` tell what it applied to and which can be withdrawn.

        Raises:
          ValueError: ``times`` is not 1 or more.
        """
        answer = Answer(operation, pattern, times, errno=errno, lost_reply=False)
        return self._script.add(answer)

    def lose_reply(
        self, operation: str, pattern: StrOrBytesPath, errno: int, *, times: float = 1
    ) -> Rule:
        """Carry out the operation and answer ``errno`` all the same, as after a lost reply.

        Arguments and errors are those of `fail`.
        """
        answer = Answer(operation, pattern, times, errno=errno, lost_reply=True)
        return self._script.add(answer)

    def fail_nth(
        self,
        nth: int,
        errno: int,
        *,
        operations: Collection[str] | None = None,
        lost_reply: bool = False,
    ) -> Rule:
        """Answer ``errno`` to the ``nth`` operation from now, 1 for the next, and to no other.

        Args:
          nth: Which one.
          errno: What to answer.
          operations: The names of those that count; None for all.
          lost_reply: Whether it is carried out all the same.

        Raises:
          ValueError: ``nth`` is less than 1.
        """
        if nth < 1:
            raise ValueError(f"nth must be 1 or more, not {nth!r}")
        return self._script.add(Nth(nth, operations=operations, errno=errno, lost_reply=lost_reply))

    def delay(
        self,
        operation: str,
        pattern: StrOrBytesPath,
        seconds: float,
        *,
        when: When = "inside",
        times: float = float("inf"),
    ) -> Rule:
        """Let matching operations take so many seconds.

        Args:
          operation: A pattern for the operation's name.
          pattern: A pattern for its path.
          seconds: How long, by trio's clock if there are no threads.
          when: ``"before"``: it is about to ask the kernel, and in nobody's way; ``"inside"``: the
              kernel has locked the directory, and nothing has happened yet; ``"after"``: it has
              taken effect but not returned, and the directory is still locked.
          times: How often; always if not given.

        Raises:
          ValueError: ``seconds`` is negative, ``when`` is none of these, or ``times`` is not 1 or
              more.
        """
        if not seconds >= 0:
            raise ValueError(f"seconds must be 0 or more, not {seconds!r}")
        rule = Delay(operation, pattern, times, when)
        rule.seconds = seconds
        return self._script.add(rule)

    def hold(
        self, operation: str, pattern: StrOrBytesPath, *, when: When = "inside", times: float = 1
    ) -> Hold:
        """Keep matching operations until they are released, as a hung server does.

        Arguments and errors are those of `delay`.

        Returns:
          The handle: ``await hold.wait_arrived()``, ``hold.release()``.
        """
        return self._script.add(Hold(operation, pattern, times, when))

    def interfere(
        self,
        operation: str,
        pattern: StrOrBytesPath,
        fn: Callable[[], object],
        *,
        when: When = "before",
        times: float = 1,
    ) -> Rule:
        """Call ``fn()`` at matching operations, as if another program were quicker.

        It is called in the thread of the operation and must not ask this filesystem for anything;
        to change the tree, use ``memory`` or `os`. Arguments and errors are those of `delay`.
        """
        rule = Interference(operation, pattern, times, when)
        rule.fn = fn
        return self._script.add(rule)

    def forget(self, rule: Rule) -> None:
        """Withdraw a rule, and do not look at it any more.

        Raises:
          ValueError: It is not one of this filesystem.
        """
        rule.withdraw()
        self._script.remove(rule)

    def release_all(self) -> None:
        """Release every hold, so that no thread is left behind."""
        self._script.release_all()

    def mount_at(
        self,
        point: StrOrBytesPath,
        *,
        type: str = "nfs4",  # noqa: A002 - the name it has in `Mount`
        source: str = "server:/export",
        options: str = "rw",
    ) -> Mount:
        """Have ``point`` and what is below it lie on a mount of its own, equal to no other.

        In memory an empty filesystem is mounted there, which has to be a directory. Around another
        filesystem only the mount table says so.

        Raises:
          OSError: It is in memory, and ``point`` is no directory.
        """
        if isinstance(self._backing, MemoryFilesystem):
            return self._backing.mount_at(point, type=type, source=source, options=options)
        return self._mounts.add(point, type=type, source=source, options=options)

    def unmount(self, point: StrOrBytesPath) -> None:
        """Let the mount vanish as that of a dead server can: what is beneath it shows again.

        Raises:
          KeyError: `mount_at` has mounted nothing there.
        """
        if isinstance(self._backing, MemoryFilesystem):
            self._backing.unmount(point)
        else:
            self._mounts.remove(point)

    async def perform(
        self, operation: str, path: AnyPath, async_fn: Callable[..., Awaitable[T]], *args: object
    ) -> T:
        """Await ``async_fn(*args)`` as an operation of this filesystem.

        For what a program does with files beside making directories: its operations are then in
        the same record, and the same rules and sweeps apply to them, under the name and path
        given here. No directory is locked.

        Returns, raises:
          As ``async_fn`` does, unless the script says otherwise.

        **Cancellation handling**: A checkpoint, always. Delays and holds may be cancelled.
        """
        call = self._begin(operation, path)
        picked = call.picked
        await trio.lowlevel.checkpoint()
        for when in ("before", "inside"):
            for wait in picked.waits(when):
                await wait.wait()
            picked.interfere(when)
        answer = picked.answer
        result: T | None = None
        if answer is None or answer.lost_reply:
            try:
                result = await async_fn(*args)
            except OSError as error:
                call.error = error
        for wait in picked.waits("after"):
            await wait.wait()
        picked.interfere("after")
        call.obey(answer)
        call.value = result
        return call.answer()  # type: ignore[return-value]  # what async_fn gave

    # What the library asks of a filesystem

    @property
    def turn(self) -> Callable[[tuple[str, AnyPath] | None], Awaitable[object]] | None:
        """For the library: what it awaits before each operation if there are no threads."""
        return None if self._threads else self._take_turn

    def mkdir(self, path: AnyPath, mode: int = 0o777) -> None:
        """`os.mkdir`, as the script has it."""
        self._carry_out("mkdir", path, partial(self._backing.mkdir, path, mode), mode)

    def rmdir(self, path: AnyPath) -> None:
        """`os.rmdir`, as the script has it."""
        self._carry_out("rmdir", path, partial(self._backing.rmdir, path))

    def stat(self, path: AnyPath) -> os.stat_result:
        """`os.stat`, as the script has it."""
        return self._carry_out("stat", path, partial(self._backing.stat, path))

    def lstat(self, path: AnyPath) -> os.stat_result:
        """`os.lstat`, as the script has it."""
        return self._carry_out("lstat", path, partial(self._backing.lstat, path))

    def statvfs(self, path: AnyPath) -> os.statvfs_result:
        """`os.statvfs`, as the script has it."""
        return self._carry_out("statvfs", path, partial(self._backing.statvfs, path))

    def sleep(self, seconds: float) -> None:
        """`time.sleep`; without threads, the library's task sleeps before its next operation."""
        if self._threads:
            self._backing.sleep(seconds)
        elif (task := _task()) is not None:
            self._owed_sleep[task] = self._owed_sleep.get(task, 0.0) + seconds

    def mount(self, path: AnyPath) -> Mount:
        """The mount on which ``path`` lies; see `mount_at`."""
        return self._mounts.find(path) or self._backing.mount(path)

    # How an operation goes

    def _begin(self, operation: str, path: AnyPath) -> _Call:
        call = _Call(operation, path, self._script.pick(operation, path))
        with self._lock:
            self._calls.append(call)
        return call

    async def _take_turn(self, announced: tuple[str, AnyPath] | None) -> None:
        """Wait as the operation that was announced would, up to its effect or to its answer."""
        task = trio.lowlevel.current_task()
        seconds = self._owed_sleep.pop(task, 0.0)
        if seconds:
            await trio.sleep(seconds)
        if announced is None or announced[0] not in OPERATIONS:
            await trio.lowlevel.checkpoint()
            return
        operation, path = announced
        self._announced[task] = call = self._begin(operation, path)
        # The mode of a mkdir is not announced; `_correct` sees to it when it is known.
        arguments = (path, _ANY_MODE) if operation == "mkdir" else (path,)
        call.steps = self._steps(call, partial(getattr(self._backing, operation), *arguments))
        await trio.lowlevel.checkpoint()
        for wait in call.steps:
            await wait.wait()

    def _carry_out(
        self, operation: str, path: AnyPath, do: Callable[[], T], mode: int | None = None
    ) -> T:
        call = self._taken(operation, path)
        if call is None:
            call = self._begin(operation, path)
            call.steps = self._steps(call, do)
        call.at_once = not self._threads
        try:
            for wait in call.steps:
                if not call.at_once:
                    wait.block()
            if not call.done:
                call.carry_out(do)
            elif mode is not None and mode != _ANY_MODE and call.error is None:
                self._correct(path, mode)
        finally:
            if call.claim is not None:
                self._locks.release(call.claim)
        return call.answer()  # type: ignore[return-value]  # what `do` gave

    def _taken(self, operation: str, path: AnyPath) -> _Call | None:
        """The call that this very task has announced and waited for."""
        task = None if self._threads else _task()
        if task is not None:
            call = self._announced.pop(task, None)
            if call is not None and (call.operation, call.path) == (operation, path):
                return call
        return None

    def _steps(self, call: _Call, do: Callable[[], object]) -> Iterator[Wait]:
        """What ``call`` has to wait for; it takes effect only if something comes after that."""
        picked = call.picked
        yield from picked.waits("before")
        picked.interfere("before")
        if not call.at_once and not self._enter(call):
            yield _Entrance(self._locks.news, partial(self._enter, call))
        yield from picked.waits("inside")
        picked.interfere("inside")
        if picked.after:
            call.carry_out(do)
            yield from picked.waits("after")
            picked.interfere("after")

    def _enter(self, call: _Call) -> bool:
        # Asked each time: what stands at its path can have changed while it waited.
        claim = self._claim(call.operation, call.path)
        if not self._locks.acquire(claim):
            return False
        call.claim = claim
        return True

    def _claim(self, operation: str, path: AnyPath) -> Claim:
        above = parent_of(path)
        inside = None if above is None else self._locate(above)
        parent: frozenset[Hashable] = frozenset() if inside is None else frozenset([inside])
        if operation == "mkdir":
            return Claim(exclusive=parent)
        if operation == "rmdir":
            itself = self._locate(path)
            return Claim(exclusive=parent if itself is None else parent | {itself})
        return Claim(shared=parent)

    def _locate(self, directory: AnyPath) -> Hashable | None:
        """What stands for ``directory``, however it is called."""
        if isinstance(self._backing, MemoryFilesystem):
            return self._backing.locate(directory)
        return os.path.realpath(os.fsdecode(directory))

    def _correct(self, path: AnyPath, mode: int) -> None:
        """Give a directory that was made with `_ANY_MODE` the mode that was asked for."""
        made = self._backing.stat(path).st_mode
        # What the umask has left of 0o777 tells what it leaves of any mode.
        wanted = made & (mode | stat.S_ISGID) & 0o7777 | mode & stat.S_ISVTX
        chmod = self._backing.chmod if isinstance(self._backing, MemoryFilesystem) else os.chmod
        chmod(path, wanted)


class _Entrance:
    """Where an operation waits until it may go in."""

    def __init__(self, news: News, enter: Callable[[], bool]) -> None:
        self._news = news
        self._enter = enter

    def block(self) -> None:
        self._news.block_until(self._enter)

    async def wait(self) -> None:
        await self._news.wait_until(self._enter)


def _task() -> trio.lowlevel.Task | None:
    """The task that is running, if one is."""
    try:
        return trio.lowlevel.current_task()
    except RuntimeError:
        return None
