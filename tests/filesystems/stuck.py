"""Wait until a thread sits in a system call that does not return.

A frozen filesystem tells nobody that somebody waits for it. The kernel's list of threads does: what
each of them waits in, and whether a signal could wake it. So a test can wait for that state instead
of hoping that some time is enough.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path

import trio

#: The numbers of the system calls of interest, which differ between machines. Newer machines have
#: only the ``at`` ones.
_NUMBERS = {
    "x86_64": {
        "mkdir": (83, 258),
        "rmdir": (84, 263),
        "rename": (82, 264, 316),
        "stat": (4, 6, 262, 332),
        "chmod": (90, 268, 452),
    },
    "aarch64": {
        "mkdir": (34,),
        "rmdir": (35,),
        "rename": (38, 276),
        "stat": (79, 291),
        "chmod": (53, 452),
    },
}

_LOOK_EVERY = 0.001


def stuck_threads(syscall: str = "mkdir", pid: int | str = "self") -> list[int]:
    """Return the ids of a process's threads that sleep uninterruptibly in a system call."""
    numbers = _NUMBERS[platform.machine()][syscall]
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
            number = (task / "syscall").read_text().split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        if state == "D" and number != "running" and int(number) in numbers:
            found.append(int(task.name))
    return found


def wait_stuck(
    count: int = 1, syscall: str = "mkdir", *, timeout: float = 10.0, pid: int | str = "self"
) -> None:
    """Return once *count* threads are stuck in a system call, or raise `TimeoutError`."""
    deadline = time.monotonic() + timeout
    while not _are_stuck(count, syscall, pid, deadline):
        time.sleep(_LOOK_EVERY)


async def wait_stuck_async(
    count: int = 1,
    syscall: str = "mkdir",
    *,
    timeout: float = 10.0,  # noqa: ASYNC109 - real seconds, whatever clock trio runs on
    pid: int | str = "self",
) -> None:
    """Do as `wait_stuck` does, while trio's other tasks go on."""
    deadline = time.monotonic() + timeout
    while not _are_stuck(count, syscall, pid, deadline):
        await trio.sleep(_LOOK_EVERY)
    await trio.lowlevel.checkpoint()


def _are_stuck(count: int, syscall: str, pid: int | str, deadline: float) -> bool:
    found = stuck_threads(syscall, pid)
    if len(found) >= count:
        return True
    if time.monotonic() > deadline:
        raise TimeoutError(f"{len(found)} of {count} threads are stuck in {syscall}")
    return False
