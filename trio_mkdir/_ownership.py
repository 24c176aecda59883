"""Owner, group, mode and attributes of what a call has made.

Programs, as in `_walk`. Everything is made closed: with no more than its owner's bits of the mode
that it gets. When all of it stands, it is opened from the deepest up, so the uppermost comes last,
and until then nobody gets in. What each is to have follows from what was asked for, from the
template, and from the one directory that stood above: setgid and a default ACL are inherited all
the way down from there.
"""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING, Final

import attrs

from ._acl import ACCESS, DEFAULT, in_words, mode_under, says_more
from ._causes import RootCause
from ._events import Correction, NotCopied
from ._metadata import (
    Metadata,
    change,
    identity_of,
    opened,
    read,
    template,
    within,
)
from ._paths import parent_of
from ._walk import Failed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from ._demands import Ownership
    from ._entries import Identity
    from ._events import Recorder
    from ._handshake import Operation
    from ._items import Item
    from ._os import Directory, Opening, Owning
    from ._paths import AnyPath
    from ._transaction import Transaction
    from ._walk import Program

_BY_MKDIR: Final = 0o1777
"""What mkdir(2) takes of its mode."""
_OWNER_ENTERS: Final = 0o300
"""Without these nothing in it can be removed, but by root."""


@attrs.frozen(kw_only=True)
class Grant:
    """What is asked for, with everything in it that had to be looked up."""

    uid: int
    gid: int
    exact_mode: bool
    like: Metadata | None
    umask: int


@attrs.frozen
class _Above:
    """What a directory hands on to those that are made in it."""

    gid: int | None
    """Its group, if that is inherited."""
    default: bytes | None
    """Its default ACL."""


def prepare(wanted: Ownership, path: AnyPath, system: Owning) -> Generator[Operation, None, Grant]:
    """Look up what is ``wanted`` for ``path``, before anything is made.

    Raises LookupError, as `shutil.chown` does, where there is no such user or group.
    """
    uid = yield from uid_of(wanted.owner, path, system)
    gid = yield from gid_of(wanted.group, path, system)
    like = None
    if wanted.like is not None:
        like = yield from read_template("like", wanted.like, system)
    yield "umask", path
    return Grant(uid=uid, gid=gid, exact_mode=wanted.exact_mode, like=like, umask=system.umask())


def uid_of(
    owner: int | str | None, path: AnyPath, system: Owning
) -> Generator[Operation, None, int]:
    """The number of the option ``owner``; -1 for None."""
    if not isinstance(owner, str):
        return -1 if owner is None else owner
    yield "getpwnam", path
    try:
        return system.getpwnam(owner, path)
    except KeyError:
        raise LookupError(f"owner: no such user: {owner!r}") from None


def gid_of(
    group: int | str | None, path: AnyPath, system: Owning
) -> Generator[Operation, None, int]:
    """The number of the option ``group``; -1 for None."""
    if not isinstance(group, str):
        return -1 if group is None else group
    yield "getgrnam", path
    try:
        return system.getgrnam(group, path)
    except KeyError:
        raise LookupError(f"group: no such group: {group!r}") from None


def read_template(
    option: str, path: AnyPath, system: Opening
) -> Generator[Operation, None, Metadata]:
    """What the directory has that ``option`` names."""
    try:
        directory = yield from opened(system, path)
        try:
            return (yield from template(directory, path))
        finally:
            directory.close()
    except OSError as error:
        note = f"template: it is what `{option}` names"
        failure = _failed(error, path, note, vanished=False)
        failure.operation = getattr(error, "operation", "open")
        raise failure from None


def check_whose(transaction: Transaction) -> Program:
    """Raise `Failed` where something stands that may be ours and cannot be given to anybody.

    After a lost reply it cannot be told from another's; but ours would be closed.
    """
    for path, number in [*transaction.ambiguous.items()]:
        yield "lstat", path
        try:
            mode = transaction.filesystem.lstat(path).st_mode
        except OSError as error:
            raise _failed(error, path) from None
        if not mode & 0o077:
            answer = errno.errorcode.get(number, str(number))
            note = (
                f"mkdir was answered {answer} and may have made it; its owner and mode are left,"
                " as it cannot be told from another's"
            )
            raise Failed(number, path, note=note)


def give(
    grant: Grant,
    made: Sequence[Item],
    asked: Callable[[AnyPath], tuple[int, bool]],
    transaction: Transaction,
    filesystem: Opening,
) -> Program:
    """Give ``made``, parents first, what is granted: the deepest first.

    ``asked`` tells of a path the mode, as it was asked for, and whether that is a leaf's. Where
    something else has taken the place of one above a leaf, that is not the call's and left alone.
    """
    giving = _Giving(grant, asked, transaction, filesystem)
    for item in made:
        if item.identity is None:  # the sooner, the less can have come between
            yield "lstat", item.path
            try:
                item.identity = identity_of(filesystem.lstat(item.path))
            except OSError as error:
                raise _failed(error, item.path) from None
    above: dict[AnyPath, _Above] = {}
    parents = {item.path: parent_of(item.path) or item.path for item in made}
    for item in made:
        parent = parents[item.path]
        known = above.get(parent)
        above[item.path] = known or (yield from giving.look(parent))
    uppers = {*parents.values()}
    for item in reversed(made):
        try:
            yield from giving.finish(item, above[item.path], is_parent=item.path in uppers)
        except _Replaced as replaced:
            if item is made[-1] or asked(item.path)[1]:
                raise _failed(replaced, item.path) from None


class _Replaced(FileNotFoundError):
    """Something else stands there."""


class _Giving:
    """What is done for all directories of one call."""

    def __init__(
        self,
        grant: Grant,
        asked: Callable[[AnyPath], tuple[int, bool]],
        transaction: Transaction,
        filesystem: Opening,
    ) -> None:
        self._grant = grant
        self._asked = asked
        self._transaction = transaction
        self._filesystem = filesystem

    def look(self, path: AnyPath) -> Generator[Operation, None, _Above]:
        """What ``path``, which stood before, hands on.

        Who can swap it between this and the making could have swapped it before.
        """
        there = within(path)
        try:
            yield "open", there
            directory = self._filesystem.open(there)
            try:
                _, found = yield from read(directory, there, [DEFAULT])
            finally:
                directory.close()
        except OSError as error:
            raise _failed(error, path) from None
        gid = found.gid if found.mode & stat.S_ISGID else None
        return _Above(gid, found.attributes[DEFAULT])

    def finish(self, item: Item, above: _Above, *, is_parent: bool) -> Program:
        """Give ``item`` all that it is to have."""
        path = item.path
        try:
            yield "open", path
            directory = self._filesystem.open(path)
            try:
                yield from self._finish(directory, item, above, is_parent=is_parent)
            finally:
                directory.close()
        except NotADirectoryError:
            raise _Replaced(errno.ENOENT, "something else has taken its place") from None
        except _Replaced:
            raise
        except OSError as error:
            raise _failed(error, path) from None

    def _finish(
        self, directory: Directory, item: Item, above: _Above, *, is_parent: bool
    ) -> Program:
        path, like = item.path, self._grant.like
        names: Iterable[str] = (DEFAULT, ACCESS) if above.default is not None else ()
        identity, found = yield from read(
            directory, path, names if like is None else like.attributes
        )
        if identity != item.identity:
            raise _Replaced(errno.ENOENT, "another directory has taken its place")
        wanted = self._wanted(path, found, above)
        self._tell(path, found, wanted, above)
        if is_parent and wanted.mode & _OWNER_ENTERS != _OWNER_ENTERS:
            self._reopen_to_undo(item, identity, found)
        for name, number in (yield from change(directory, path, found, wanted, shared=False)):
            _tell_once(self._transaction.recorder, NotCopied, path, name, number)

    def _wanted(self, path: AnyPath, found: Metadata, above: _Above) -> Metadata:
        grant, like = self._grant, self._grant.like
        inherited = found.mode & stat.S_ISGID | (0 if above.gid is None else stat.S_ISGID)
        mode = self._mode(path, above) | inherited
        if like is not None:
            uid = like.uid if grant.uid == -1 else grant.uid
            gid = like.gid if grant.gid == -1 else grant.gid
            return Metadata(uid, gid, mode, like.attributes)
        gid = above.gid if above.gid is not None and grant.gid == -1 else grant.gid
        attributes: dict[str, bytes | None] = {}
        if above.default is not None:
            attributes[DEFAULT] = above.default
            if found.attributes[ACCESS] is None and says_more(above.default):
                attributes[ACCESS] = above.default
        return Metadata(grant.uid, gid, mode, attributes)

    def _mode(self, path: AnyPath, above: _Above) -> int:
        """That of ``path``, without what it inherits."""
        mode, is_leaf = self._asked(path)
        if self._grant.exact_mode and is_leaf:
            return mode
        if self._grant.like is not None:
            return self._grant.like.mode
        if above.default is not None:
            return mode_under(above.default, mode) | mode & stat.S_ISVTX
        return mode & _BY_MKDIR & ~self._grant.umask

    def _tell(self, path: AnyPath, found: Metadata, wanted: Metadata, above: _Above) -> None:
        """What the filesystem should have handed on, and has not."""
        recorder = self._transaction.recorder
        grant, mode = self._grant, found.mode
        if above.gid is not None:
            if grant.gid == -1 and grant.like is None and found.gid != above.gid:
                _tell_once(recorder, Correction, path, "group", found.gid, above.gid)
            if not mode & stat.S_ISGID:
                _tell_once(recorder, Correction, path, "mode", mode, mode | stat.S_ISGID)
        if grant.like is None:
            for name, value in wanted.attributes.items():
                before = found.attributes[name]
                if value is not None and value != before:
                    was = None if before is None else in_words(before)
                    _tell_once(recorder, Correction, path, name, was, in_words(value))

    def _reopen_to_undo(self, item: Item, identity: Identity, found: Metadata) -> None:
        """What is in there can only be removed again while its owner may write to it."""
        if found.mode & _OWNER_ENTERS == _OWNER_ENTERS:
            self._transaction.altered(item.path, identity, Metadata(mode=found.mode))


def _tell_once(recorder: Recorder, kind: type, path: AnyPath, *details: object) -> None:
    """Tell it, unless it was told before a retry."""
    if not any(told[0] is kind and told[2:] == (path, details) for told in recorder.told):
        recorder.tell(kind, path, *details)


def _failed(error: OSError, path: AnyPath, note: str = "", *, vanished: bool = True) -> Failed:
    number, cause = error.errno or errno.EIO, None
    if vanished and number in {errno.ENOENT, errno.ENOTDIR}:
        number, cause = errno.ENOENT, RootCause.VANISHED
    note = "; ".join(filter(None, [note, getattr(error, "doing", "")]))
    return Failed(number, path, cause, note, operation=getattr(error, "operation", "mkdir"))
