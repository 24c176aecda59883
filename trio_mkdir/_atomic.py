"""What is missing appears at once, or not at all.

Nothing visible may be made before all of it is ready. So this walk does not try, it looks: from the
leaf up, for what stands. Beside the topmost directory that is missing it makes one with a name that
nobody uses, in that everything else, and then gives it its own name by a rename that replaces
nothing. Until then no other process can be led to it, and what a killed one leaves is found by its
name (`_hidden`).

If somebody has made the same name meanwhile, theirs stays: what was hidden is taken back, and the
walk begins anew and finds theirs. Who makes it away again each time is only followed so often.

What stands at a hidden path is our own, whatever was answered when it was made.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING, Final, cast

from ._causes import AMBIGUOUS, RootCause
from ._paths import is_dot_dot, parent_of, without_slashes
from ._preview import through
from ._walk import Failed, Walk, raise_passing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._items import Item
    from ._paths import AnyPath, Target
    from ._preview import Preview
    from ._transaction import Transaction
    from ._walk import Item as Made
    from ._walk import Log, Program

_TAKEN: Final = {errno.EEXIST, errno.ENOTEMPTY}
_UNKNOWN_FLAG: Final = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


def _nothing(made: Sequence[Item]) -> Program:  # noqa: ARG001
    yield from ()


class AtomicWalk(Walk):
    """The way to one target that shows nothing before all of it can be seen.

    ``filesystem`` is also where it hides it. ``log`` becomes a `Transaction` before it is run.
    """

    finish: Callable[[Sequence[Item]], Program]
    """What is to be done to what was made before anybody sees it."""

    def __init__(self, target: Target, filesystem: Preview, log: Log) -> None:
        super().__init__(target, filesystem, log)
        self._preview = filesystem
        self.finish = _nothing
        self._made: list[Item] = []
        """What was made and is hidden, parents first."""
        self._lost: AnyPath | None = None
        """Where somebody was quicker."""
        self._may_be: Item | None = None
        """What may have been made, though that was answered otherwise."""
        self._is_over = False
        """What is hidden is of no use any more."""
        self._has_arrived = False

    @property
    def arrived(self) -> bool:
        """Whether the leaf stands."""
        return self._has_arrived

    def restart(self) -> None:
        """Forget what was seen; what is hidden is taken back first, by whoever goes on."""
        super().restart()
        self._lost = None
        self._is_over = True
        self._has_arrived = False

    def run(self) -> Program:
        """All that is left of it."""
        while not self._has_arrived:
            if self._is_over:
                yield from self._take_back()
            if not self._preview.is_hiding and not self._made:
                yield from through(self._preview, self._look())
                continue
            if self._preview.in_doubt:
                yield from through(self._preview, self._settle(0))
            yield from through(self._preview, self._build())
            yield from through(self._preview, self.finish(self._made))
            yield from through(self._preview, self._show())

    # Looking

    def _look(self) -> Program:
        """Climb to what stands; what is to be done then is what is missing."""
        self._todo = [self._target.path]
        self._reached = None
        while True:
            path = self._todo[-1]
            name = without_slashes(path) or path
            yield "lstat", name
            try:
                self._filesystem.lstat(name)
            except FileNotFoundError:
                if path == self._lost:
                    raise Failed(errno.ENOENT, path, RootCause.VANISHED) from None
                if not self._climb(path):
                    break
            except OSError as error:
                raise_passing(error, path)
                yield from self._fail(path, error.errno or errno.EIO)
            else:
                yield from self._stands_there(path)
                break
        if self._todo:
            self._begin(self._todo[-1])
        else:
            self._has_arrived = True

    def _climb(self, path: AnyPath) -> bool:
        return not is_dot_dot(path) and super()._climb(path)

    def _stands_there(self, path: AnyPath) -> Program:
        yield from self._stands(path, errno.EEXIST, leaf=path is self._target.path)
        self._reached = self._todo.pop()

    def _begin(self, top: AnyPath) -> None:
        above = parent_of(top)
        if above is None:  # nothing is an empty path
            raise Failed(errno.ENOENT, top)
        if is_dot_dot(top):
            note = "what is missing before a `..` cannot be made at once with what comes after it"
            raise Failed(errno.ENOENT, top, note=note)
        self._preview.hide(top, above)
        self._todo = self._appearing(self._todo[::-1])[::-1]

    def _appearing(self, missing: list[AnyPath]) -> list[AnyPath]:
        """All that is to appear with ``missing``, parents first, as it is."""
        return missing

    # Making

    @property
    def _transaction(self) -> Transaction:
        return cast("Transaction", self.log)

    def _build(self) -> Program:
        """Make what is missing where nobody sees it."""
        while self._new is not None or self._todo:
            if self._new is None:
                yield from self._make(self._todo[-1])
            else:
                yield from self._know(self._new)

    def _make(self, path: AnyPath) -> Program:
        yield "mkdir", path
        since = time.monotonic()
        self.answer = None
        try:
            self._filesystem.mkdir(path, self._target.mode_of(path))
        except OSError as error:
            self.answer = number = error.errno or errno.EIO
            if number not in AMBIGUOUS and number != errno.EEXIST:
                yield "lstat", path  # a server can answer anything to what it has done
                try:
                    self._filesystem.lstat(path)
                except OSError:
                    yield from self._refused(path, number)
            self._may_be = self._may_be or self._transaction.made_unseen(path, since)
            yield from self._find(path, self._may_be, number)
        else:
            self._may_be = self._may_be or self._transaction.made_unseen(path, since)
        self._new, self._may_be = self._may_be, None
        self._made.append(self._new)
        self._reached = self._todo.pop()

    def _find(self, path: AnyPath, item: Item, number: int) -> Program:
        """Return if it was made, though ``number`` was answered."""
        yield "lstat", path
        try:
            self._filesystem.lstat(path)
        except FileNotFoundError:
            self._may_be = None
            self._transaction.take(item)
            yield from self._refused(path, number)
        except OSError as error:
            raise_passing(error, path)
            yield from self._fail(path, number)

    def _refused(self, path: AnyPath, number: int) -> Program:
        if number == errno.ENOENT:
            yield from self._dead_end(path)
        yield from self._fail(path, number)

    def _know(self, item: Made) -> Program:
        path = item.path
        yield "lstat", path
        try:
            status = self._filesystem.lstat(path)
        except FileNotFoundError:
            raise Failed(errno.ENOENT, path, RootCause.VANISHED) from None
        except OSError as error:
            raise_passing(error, path)
            yield from self._fail(path, error.errno or errno.EIO)
        else:
            item.identity = status.st_dev, status.st_ino
            self._new = None

    # Showing

    def _show(self) -> Program:
        """Have it appear; return without that if somebody was quicker, or it has to be tried again.

        On any error, what stands there decides.
        """
        preview, top = self._preview, self._preview.top
        identity = self._made[0].identity
        assert identity is not None  # noqa: S101 - for the type checker
        number = 0
        if preview.is_hiding:
            yield "rename", top
            self.answer = None
            try:
                preview.show(identity)
            except OSError as error:
                self.answer = number = error.errno or errno.EIO
        if preview.in_doubt:
            yield from self._settle(number)
        if not preview.is_hiding:
            self._arrive()
        elif number:
            yield from self._not_shown(top, number)

    def _settle(self, number: int) -> Program:
        try:
            yield from self._preview.settle(self._target.path)
        except OSError as error:
            top = self._preview.top
            raise_passing(error, top)
            yield from self._fail(top, number or error.errno or errno.EIO)

    def _arrive(self) -> None:
        self._transaction.seen(self._made)
        self.mine.update(item.path for item in self._made)
        self._made = []
        self._has_arrived = True

    def _not_shown(self, top: AnyPath, number: int) -> Program:
        if number in _TAKEN:
            self._lost = top
            self._is_over = True
            return
        if number == errno.ENOENT:
            raise Failed(number, top, RootCause.VANISHED)
        if number in _UNKNOWN_FLAG:
            note = (
                "this filesystem has no rename that replaces nothing, so it cannot be kept atomic;"
                " or it cannot hold this name"
            )
            raise Failed(number, top, note=note)
        yield from self._fail(top, number)

    def _take_back(self) -> Program:
        yield from self._transaction.take_back(self._made)
        self._made = []
        self._new = self._may_be = None
        self._preview.forget()
        self._is_over = False


class TreeWalk(AtomicWalk):
    """The same to one of many targets: all that is planned below what is missing appears with it.

    ``together`` tells what that is. Nothing that ``mine`` knows is looked for.
    """

    def __init__(
        self,
        target: Target,
        filesystem: Preview,
        transaction: Transaction,
        together: Callable[[list[AnyPath]], list[AnyPath]],
    ) -> None:
        super().__init__(target, filesystem, transaction)
        self._together = together

    def _appearing(self, missing: list[AnyPath]) -> list[AnyPath]:
        return self._together(missing)

    def _stands_there(self, path: AnyPath) -> Program:
        yield from super()._stands_there(path)
        if path is self._target.path:
            self.mine.discard(path)  # gone and made again by others, as far as we know

    @property
    def progress(self) -> int:
        """How many are made and hidden."""
        return len(self._made)
