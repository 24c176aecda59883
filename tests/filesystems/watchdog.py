"""Undo something even if the test process cannot.

A frozen filesystem and a forgotten mount outlive the process that made them, and a ``finally`` does
not run under SIGKILL. So a second process keeps the undoing ready. It acts when its time is up,
when its pipe closes, and when the test process is dying. The last of these is not the same as the
pipe closing: a killed process that has one thread in an uninterruptible system call keeps all its
descriptors open until that call returns, which is just what the undoing is to bring about.

This file is its own second process: it is run by its path, and imports nothing but the standard
library.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

#: How often the test process is looked at. No pipe tells that a process is dying.
_LOOK_EVERY = 0.25

#: How long the second process may take to start.
_READY_WITHIN = 10.0

_SIGKILL_BIT = 1 << 8


class Watchdog:
    """A process that runs *command* unless it is called off in time."""

    def __init__(
        self, command: Sequence[str], *, after: float = math.inf, pass_fds: Sequence[int] = ()
    ) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - the fixtures' own commands
            [
                sys.executable,
                "-I",
                "-S",
                str(Path(__file__).resolve()),
                str(os.getpid()),
                str(after),
                *command,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=pass_fds,
            cwd="/",
            # Ctrl-C goes to the whole foreground group, and must not end the one who cleans up.
            start_new_session=True,
        )

    def wait_ready(self) -> None:
        """Return once it watches. Needed only before something that must never go unwatched."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], _READY_WITHIN)
        if not readable or not os.read(self._process.stdout.fileno(), 1):
            self.call_off()
            raise RuntimeError("the watchdog process did not start")

    def call_off(self) -> None:
        """End it before it acts. Doing so twice is fine, also when it has acted already."""
        self._process.kill()
        self._process.communicate()


def is_dying(pid: int) -> bool:
    """Whether a process is gone, or was killed and waits for a system call of one thread.

    Its main thread is then a zombie, or carries a SIGKILL that it cannot act on yet.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return fields["State"][0] in "ZX" or bool(int(fields["SigPnd"], 16) & _SIGKILL_BIT)


def _watch(parent: int, after: float) -> bool:
    """Wait until it is time to act (True), or until called off in words (False)."""
    deadline = time.monotonic() + after
    while not is_dying(parent):
        left = deadline - time.monotonic()
        if left <= 0:
            return True
        if select.select([0], [], [], min(left, _LOOK_EVERY))[0]:
            return not os.read(0, 1)
    return True


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # who was to read this may be dead already
        os.write(1, b"r")
    if _watch(int(sys.argv[1]), float(sys.argv[2])):
        os.execvp(sys.argv[3], sys.argv[3:])  # noqa: S606 - the fixtures' own commands
