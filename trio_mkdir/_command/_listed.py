"""Names that come from a file, as they come; and how many of them are made, on a terminal."""

# Imported is what the path taken needs, when it needs it: start-up is most of the command's time.
# ruff: noqa: PLC0415

from __future__ import annotations

import contextlib
import errno
import os
import sys

from ._voice import write

TYPE_CHECKING = False  # type checkers know the name; importing typing for it would cost time
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

_PIECE = 65_536  # bytes to read at once
_NULL = "it holds a null byte; see --null"


class CannotRead(OSError):
    """The file with the names; ``doing`` is what could not be done."""

    def __init__(self, number: int, why: str, name: str, doing: str) -> None:
        super().__init__(number, why, name)
        self.doing = doing


async def names(  # noqa: ASYNC900, ASYNC911 - closed by who reads it, which makes a directory
    source: str, *, null: bool, note: Callable[[str], object]
) -> AsyncGenerator[str, None]:
    """Each name in ``source``, ``-`` for standard input; one a line, or ended by ``null`` bytes.

    ``note`` is told of each.
    """
    import trio

    async def call(fn: Callable[..., object], *args: object, doing: str) -> object:
        # What is read can be a pipe, to which nothing comes for long.
        try:
            return await trio.to_thread.run_sync(fn, *args, abandon_on_cancel=True)
        except OSError as error:
            number = error.errno or errno.EIO
            raise CannotRead(number, os.strerror(number), source, doing) from None

    end, rest = b"\0" if null else b"\n", b""
    descriptor = 0 if source == "-" else await call(os.open, source, os.O_RDONLY, doing="open")
    assert isinstance(descriptor, int)  # noqa: S101 - for the type checker
    try:
        while piece := await call(os.read, descriptor, _PIECE, doing="read"):
            assert isinstance(piece, bytes)  # noqa: S101 - for the type checker
            *whole, rest = (rest + piece).split(end)
            for name in whole:
                note(path := _checked(name, source))
                yield path  # noqa: ASYNC911
        if rest:
            note(path := _checked(rest, source))
            yield path  # noqa: ASYNC911
    finally:
        if descriptor:
            os.close(descriptor)


def _checked(name: bytes, source: str) -> str:
    if b"\0" in name:
        raise CannotRead(errno.EINVAL, _NULL, source, "use")
    return os.fsdecode(name)


def plain(name: str) -> str:
    """One for all names of a new directory that differ in slashes and dots at the end only."""
    while len(name) > 1 and name.endswith(("/", "/.")):
        name = name[:-1]
    return name


@contextlib.contextmanager
def shown() -> Generator[Callable[[int, int | None], object] | None, None, None]:
    """What to tell progress to: a bar if rich is there, a number if not, None on no terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        yield _say
        write(sys.stderr, "\r\x1b[K")
        return
    columns = (BarColumn(), TextColumn("{task.completed} directories"), TimeElapsedColumn())
    # Without a thread of its own to draw it: it is told often enough.
    bar = Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
    with bar:
        task = bar.add_task("", total=None)
        yield lambda done, _: bar.update(task, completed=done, refresh=True)


def _say(done: int, _: int | None) -> None:
    write(sys.stderr, f"\r{done} directories")
