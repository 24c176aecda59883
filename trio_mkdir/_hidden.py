"""The names of trees that nobody is to see yet, and what they tell of their makers.

::

    .trio-mkdir.MACHINE-BOOT-SPACE-PID-START-RANDOM

A process that is killed leaves such a tree, and whoever comes to tidy up has to know whether its
maker is gone. So the name tells on which machine and since which of its boots that ran, in which
namespaces of processes and of time, and which process it was: its number, and when it started, as
numbers are used again. What cannot be told is 0, and is never taken for gone. All of it comes from
``/proc``, which does not hang.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import cache
from typing import Final

import attrs

PREFIX: Final = ".trio-mkdir."
_UNKNOWN: Final = "0"
_NAME: Final = re.compile(
    re.escape(PREFIX)
    + r"([0-9a-f]{1,8})-([0-9a-f]{1,8})-([0-9a-f]{1,8})-([0-9]{1,10})-([0-9]{1,20})-[0-9a-f]{16}",
    re.ASCII,
)


@attrs.frozen
class Maker:
    """The process that made a hidden tree."""

    machine: str
    boot: str
    space: str
    """The namespaces that its number and the time of its start belong to."""
    pid: int
    start: int
    """In clock ticks since the machine booted."""

    def why_not_gone(self) -> str | None:
        """Why it has to be taken for alive; None if it is known to be gone."""
        here = _myself()
        if _UNKNOWN in {self.machine, self.boot, here.machine, here.boot}:
            return "it cannot be told which machine made it"
        if self.machine != here.machine:
            return "another machine made it"
        if self.boot != here.boot:
            return None
        if _UNKNOWN in {self.space, here.space} or not self.start:
            return "it cannot be told which process made it"
        if self.space != here.space:
            return "a process in another namespace made it"
        return f"process {self.pid} made it, and is there" if self._is_there() else None

    def _is_there(self) -> bool:
        try:
            os.kill(self.pid, 0)  # tells of processes that /proc may hide
        except ProcessLookupError:
            return False
        except (OSError, OverflowError):
            pass
        status = _status(str(self.pid))
        if status is None:
            return True  # as far as can be told
        return status.start == self.start and not status.is_over


def new_name() -> str:
    """One that nobody has used or will use."""
    me = _myself()
    who = f"{me.machine}-{me.boot}-{me.space}-{me.pid}-{me.start}"
    return f"{PREFIX}{who}-{os.urandom(8).hex()}"


def maker_of(name: str) -> Maker | None:
    """Who has made what is called ``name``; None if that is no name of a hidden tree."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    machine, boot, space, pid, start = found.groups()
    return Maker(machine, boot, space, int(pid), int(start))


@cache
def _myself() -> Maker:
    machine = _read("/etc/machine-id") + os.uname().nodename
    boot = _read("/proc/sys/kernel/random/boot_id")
    status = _status("self")
    processes, start = "", 0
    if status is not None and _is_own_proc():
        processes, start = _link("/proc/self/ns/pid"), status.start
    space = processes and processes + _link("/proc/self/ns/time")
    return Maker(_short(machine), _short(boot), _short(space), os.getpid(), start)


if hasattr(os, "register_at_fork"):  # pragma: no branch
    os.register_at_fork(after_in_child=_myself.cache_clear)


def _short(text: str) -> str:
    digest = hashlib.blake2s(text.encode(errors="surrogateescape"), digest_size=4)
    return digest.hexdigest() if text else _UNKNOWN


@attrs.frozen
class _Status:
    start: int
    is_over: bool
    """Whether it has ended, and only its parent has not heard of that yet."""


def _status(pid: str) -> _Status | None:
    """What proc_pid_stat(5) tells."""
    # Its name, in parentheses, may hold anything.
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    try:
        state, threads, start = fields[0], int(fields[17]), int(fields[19])
    except (IndexError, ValueError):
        return None
    return _Status(start, is_over=state in {"Z", "X"} and threads <= 1)


def _is_own_proc() -> bool:
    """Whether the numbers in /proc are those that this process knows others by."""
    lines = _read("/proc/self/status").splitlines()
    return f"NSpid:\t{os.getpid()}" in lines


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
