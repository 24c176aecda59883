"""What is said, where to, and what becomes of the command if nobody can be told."""

from __future__ import annotations

import contextlib
import errno
import os
import sys

TYPE_CHECKING = False  # type checkers know the name; importing typing for it would cost time
if TYPE_CHECKING:
    from typing import TextIO

FAILED = 1


class Voice:
    """Says things in GNU's form; file names keep their bytes."""

    def __init__(self, program: str) -> None:
        self.program = program
        self._lost: OSError | None = None

    def out(self, text: str) -> None:
        """To standard output; an error is remembered and told at the end, as GNU does."""
        if self._lost is None:
            try:
                write(sys.stdout, text)
            except OSError as error:
                self._lost = error

    def err(self, text: str) -> None:
        """To standard error, the last place where anything could be said."""
        with contextlib.suppress(OSError):
            write(sys.stderr, text)

    def complain(self, message: str) -> None:
        """One message."""
        self.err(f"{self.program}: {message}\n")

    def finish(self, status: int) -> int:
        """The exit status, once everything is said."""
        if self._lost is None:
            return status
        self.complain(f"write error: {self._lost.strerror}")
        return status or FAILED

    def end_with(self, text: str) -> int:
        """Say ``text`` and nothing else."""
        self.out(text)
        return self.finish(0)


def write(stream: TextIO | None, text: str) -> None:
    """Write ``text`` at once."""
    # Past the buffers: nothing is left in them to be written twice, by parent and child, or to fail
    # when the interpreter ends.
    if stream is None:  # closed before the command began
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    data = os.fsencode(text)
    while data:
        data = data[os.write(stream.fileno(), data) :]
