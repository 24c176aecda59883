"""Changes of directories that stand: in a rollback nursery, which puts back what was before.

Programs, as in `_walk`.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Protocol

import attrs

from ._events import Changed, NotCopied
from ._metadata import Metadata, change, opened, read
from ._os import Opening, owning
from ._ownership import gid_of, read_template, uid_of
from ._undo_log import positions
from ._walk import Failed

if TYPE_CHECKING:
    from collections.abc import Generator

    from ._entries import Identity
    from ._handshake import Operation
    from ._os import Directory, Owning
    from ._paths import AnyPath
    from ._transaction import Transaction
    from ._walk import Program


class Wish(Protocol):
    """What a directory is to have."""

    def look_up(self, path: AnyPath, system: Owning) -> Generator[Operation, None, Metadata]:
        """The same with everything looked up, for ``path``."""
        ...


@attrs.frozen
class Mode:
    """Another mode."""

    mode: int

    def look_up(
        self,
        path: AnyPath,  # noqa: ARG002 - there is nothing to look up
        system: Owning,  # noqa: ARG002 - as above
    ) -> Generator[Operation, None, Metadata]:
        """As it is."""
        yield from ()
        return Metadata(mode=self.mode)


@attrs.frozen
class Owner:
    """Another owner, or group, or both."""

    owner: int | str | None
    group: int | str | None

    def look_up(self, path: AnyPath, system: Owning) -> Generator[Operation, None, Metadata]:
        """With numbers for names."""
        uid = yield from uid_of(self.owner, path, system)
        return Metadata(uid, (yield from gid_of(self.group, path, system)))


@attrs.frozen
class Copy:
    """What another directory has."""

    source: AnyPath

    def look_up(
        self,
        path: AnyPath,  # noqa: ARG002 - it is about the other one
        system: Owning,
    ) -> Generator[Operation, None, Metadata]:
        """What that has now."""
        return (yield from read_template("source", self.source, system))


class Changing:
    """Changes what stands at ``path``; ``run`` it again after a failure."""

    def __init__(self, path: AnyPath, wish: Wish, transaction: Transaction) -> None:
        self._system = owning(transaction.outside)
        if not isinstance(transaction.filesystem, Opening):
            raise NotImplementedError(f"{transaction.filesystem!r} cannot open directories")
        self._filesystem = transaction.filesystem
        self._path = path
        self._wish = wish
        self._transaction = transaction
        self._changed: set[Identity] = set()
        """What was found there and is going to be put back."""

    def run(self) -> Program:
        """Do it, and have the undo log know before that."""
        path = self._path
        wanted = yield from self._wish.look_up(path, self._system)
        try:
            directory = yield from opened(self._filesystem, path)
            try:
                yield from self._change(directory, wanted)
            finally:
                directory.close()
        except OSError as error:
            number = error.errno or errno.EIO
            note = getattr(error, "doing", "")
            what = getattr(error, "operation", "open")
            raise Failed(number, path, note=note, operation=what) from None

    def _change(self, directory: Directory, wanted: Metadata) -> Program:
        path, transaction = self._path, self._transaction
        identity, found = yield from read(directory, path, wanted.attributes)
        before, after = _told(found, found), _told(wanted, found)
        if before == after and found.attributes == wanted.attributes:
            return  # it has all of it already
        if identity not in self._changed:  # otherwise it may be half done
            self._changed.add(identity)
            kept = Metadata(
                -1 if wanted.uid == -1 else found.uid,
                -1 if wanted.gid == -1 else found.gid,
                found.mode,  # which a chown can change, too
                found.attributes,
            )
            # After it was read and before it is changed: so it comes after whatever it has read.
            transaction.altered(path, identity, kept, position=next(positions))
            transaction.recorder.tell(Changed, path, before, after)
        for name, number in (yield from change(directory, path, found, wanted)):
            transaction.recorder.tell(NotCopied, path, name, number)


def _told(metadata: Metadata, found: Metadata) -> str:
    mode = found.mode if metadata.mode == -1 else metadata.mode
    uid = found.uid if metadata.uid == -1 else metadata.uid
    gid = found.gid if metadata.gid == -1 else metadata.gid
    return f"{mode:04o} {uid}:{gid}"
