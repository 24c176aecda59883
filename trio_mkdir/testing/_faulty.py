"""The filesystem double that does what its script says: how it is told, and what it is asked."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from trio_mkdir._os import Opening, owning
from trio_mkdir._registry import registry

from ._faulty_directory import FaultyDirectory
from ._memory import MemoryFilesystem
from ._mount_points import MountPoints
from ._operations import Operations
from ._script import Answer, Delay, Hold, Interference, Nth, Rule, When

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Collection

    from trio_mkdir import Mount
    from trio_mkdir._os import Directory, Filesystem
    from trio_mkdir._paths import AnyPath, StrOrBytesPath

    from ._operations import OperationRecord

T = TypeVar("T")


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
        self._operations = Operations(backing, threads=threads)
        self._script = self._operations.script
        self._mounts = MountPoints()

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
        return self._operations.records

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
        call = self._operations.begin(operation, path)
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
        return None if self._threads else self._operations.take_turn

    def mkdir(self, path: AnyPath, mode: int = 0o777) -> None:
        """`os.mkdir`, as the script has it."""
        self._operations.carry_out("mkdir", path, partial(self._backing.mkdir, path, mode), mode)

    def rmdir(self, path: AnyPath) -> None:
        """`os.rmdir`, as the script has it."""
        self._operations.carry_out("rmdir", path, partial(self._backing.rmdir, path))

    def stat(self, path: AnyPath) -> os.stat_result:
        """`os.stat`, as the script has it."""
        return self._operations.carry_out("stat", path, partial(self._backing.stat, path))

    def lstat(self, path: AnyPath) -> os.stat_result:
        """`os.lstat`, as the script has it."""
        return self._operations.carry_out("lstat", path, partial(self._backing.lstat, path))

    def statvfs(self, path: AnyPath) -> os.statvfs_result:
        """`os.statvfs`, as the script has it."""
        return self._operations.carry_out("statvfs", path, partial(self._backing.statvfs, path))

    def open(self, path: AnyPath) -> Directory:
        """The directory that stands there; the script has its say on what is done with it, too."""
        opened = self._operations.carry_out("open", path, partial(self._elaborate().open, path))
        return FaultyDirectory(path, opened, self._operations)

    def rename(self, source: AnyPath, destination: AnyPath) -> None:
        """`os.rename` that replaces nothing, as the script has it for ``source``."""
        do = partial(self._elaborate().rename, source, destination)
        self._operations.carry_out("rename", source, do)

    def umask(self) -> int:
        """What new directories do not get of their mode."""
        return owning(self._backing).umask()

    def getpwnam(self, name: str, path: AnyPath) -> int:
        """The number of a user, as the script has it for ``path``."""
        do = partial(owning(self._backing).getpwnam, name, path)
        return self._operations.carry_out("getpwnam", path, do)

    def getgrnam(self, name: str, path: AnyPath) -> int:
        """The number of a group, as the script has it for ``path``."""
        do = partial(owning(self._backing).getgrnam, name, path)
        return self._operations.carry_out("getgrnam", path, do)

    def _elaborate(self) -> Opening:
        if not isinstance(self._backing, Opening):
            raise NotImplementedError(f"{self._backing!r} cannot open directories")
        return self._backing

    def sleep(self, seconds: float) -> None:
        """`time.sleep`; without threads, the library's task sleeps before its next operation."""
        if self._threads:
            self._backing.sleep(seconds)
        else:
            self._operations.sleep(seconds)

    def mount(self, path: AnyPath) -> Mount:
        """The mount on which ``path`` lies; see `mount_at`."""
        return self._mounts.find(path) or self._backing.mount(path)
