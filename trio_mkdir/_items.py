"""What an undo log holds: one item for each directory that may have to be undone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

from ._entries import State

if TYPE_CHECKING:
    from ._entries import Entry, Identity
    from ._handshake import Handshake
    from ._metadata import Metadata
    from ._os import Confined
    from ._paths import AnyPath
    from ._workers import Workers

Hands: TypeAlias = "tuple[tuple[Handshake, Item], ...]"
"""Who is undoing what."""


class Item:
    """One directory that may have to be undone."""

    # One is made for every directory: what it begins with is the class's.
    identity: Identity | None = None
    """What was found right after it was made."""
    entry: Entry | None = None
    position = 0
    """Its place among all that a nursery has to undo; 0 until its call has succeeded in one."""
    doubt: int | None = None
    """The errno of a ``mkdir`` that may have made it; then it is only told of."""
    taken = False
    """Whether somebody is undoing it."""
    via: Confined | None = None
    """How it is looked at and removed, if not as everything else of the undo log that it is in."""
    after: Hands = ()
    """What others are undoing and may be in it, under another path."""
    durable = False
    """Whether a power cut must not bring it back."""
    before: Metadata | None = None
    """What it had before it was changed: undoing it means to put that back."""

    def __init__(
        self, path: AnyPath, workers: Workers | None, *, made: bool, since: float = 0.0
    ) -> None:
        self.path = path
        self.workers = workers
        """Of the mount it is on."""
        self.made = made
        """By this call; otherwise it found what another call had made, and may be the last to
        fail."""
        self.since = since
        """`time.monotonic` before its ``mkdir``."""

    @property
    def paths(self) -> set[str]:
        """Where it is looked at and removed, as `spelling` has it."""
        paths = [self.path] if self.entry is None else [self.path, self.entry.path]
        return {spelling(path) for path in paths}

    @property
    def may_be_removed(self) -> bool:
        """Whether undoing it can mean to remove it, or to change it back."""
        provisional = self.entry is not None and self.entry.state is State.PROVISIONAL
        return self.made or provisional or self.before is not None


class Batch:
    """Directories that one thread makes in one directory, as quickly as it can be written down.

    Without a lock: the thread only appends, and whoever takes something takes it from the front.
    """

    def __init__(self, workers: Workers, place: int) -> None:
        self.workers = workers
        self.place = place
        """How many items were made before the first of them."""
        self.made: list[tuple[AnyPath, float]] = []
        """What was made and is in no items, and `time.monotonic` before its ``mkdir``."""
        self.told = 0
        """How many of these were told of."""
        self.is_open = True
        """Whether the thread may add some more."""

    def close(self) -> None:
        """The thread adds nothing more."""
        self.is_open = False


def spelling(path: AnyPath) -> str:
    """One for all that lead to the same directory, as far as the text tells."""
    text = os.fsdecode(path)
    return os.path.normpath(text) if "//" in text or "/." in text or text[-1:] == "/" else text
