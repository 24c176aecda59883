"""What the shared tree keeps of a directory, and of whoever holds it; `_shared` says why."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._os import Filesystem
    from ._paths import AnyPath

Identity: TypeAlias = tuple[int, int]
"""Device and inode."""
Look: TypeAlias = "tuple[Identity, AnyPath, float]"
"""What was seen, at which path, and `time.monotonic` right after."""
Via: TypeAlias = "Filesystem | None"
"""By which a directory was made, as far as that is known."""


class State(enum.Enum):
    """See the top of `_shared`."""

    FOUND = enum.auto()
    PROVISIONAL = enum.auto()
    FINAL = enum.auto()
    REMOVING = enum.auto()
    GONE = enum.auto()


class Holder:
    """Whoever can hold a directory: a call, or a nursery that its calls hand theirs on to."""

    began = 0
    """When it became active, in the tree's own count; 0 if it is not."""
    removals = 0
    """How many removals there had been when it began."""

    def __init__(self) -> None:
        self.entries: dict[Entry, None] = {}
        """What it holds, in order."""


class BeingRemoved(Exception):
    """A directory is being removed by another call right now."""

    def __init__(self, entry: Entry, path: AnyPath) -> None:
        super().__init__(entry, path)
        self.entry = entry
        self.path = path
        """At which it was met; the other call may know it by another."""


@attrs.define(eq=False)
class Entry:
    """One directory of interest."""

    identity: Identity
    path: AnyPath
    """Where it was made; or where it was found, as long as nobody says that he made it."""
    looked: AnyPath
    """Where somebody last saw it."""
    state: State = State.FOUND
    via: Via = None
    """By which it was made there."""
    seen: float = 0.0
    """`time.monotonic` after that."""
    durable: bool = False
    """Whether a power cut must not bring it back once it is removed, whoever does so."""
    missed: bool = False
    """Whether somebody else turned away from it while it was being removed."""
    born: float = 0.0
    """`time.monotonic` before the ``mkdir`` that made it: the earliest of those who say so."""
    left: float = 0.0
    """`time.monotonic` when its last holder found it full; 0 if that was not so. Who finds it after
    that cannot know whether it is still ours, until something goes that was in it then."""
    holders: set[Holder] = attrs.field(factory=set[Holder])
    waiters: tuple[Callable[[], object], ...] = ()
    """Called once it is no longer being removed."""


@attrs.frozen(eq=False)
class Sight:
    """Where and when an entry was seen last, as somebody was told."""

    entry: Entry
    path: AnyPath
    seen: float
