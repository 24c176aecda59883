"""The lane of a call for many paths of which nobody is to see a part."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ._atomic import TreeWalk
from ._lane import Lane
from ._paths import parent_of
from ._preview import Preview

if TYPE_CHECKING:
    from ._paths import AnyPath
    from ._plan import Bundle
    from ._walk import Program, Walk


class AtomicLane(Lane):
    """Makes one tree after the other: what is missing of a path, and all that is planned in there.

    So there is one that is hidden at a time, and one `Preview` for all.
    """

    @property
    def progress(self) -> int:
        """More than before, if it has got on."""
        return self.count + (0 if self._walk is None else self._walk.progress)

    def _set_out(self, path: AnyPath) -> Walk:
        preview = self.filesystem
        assert isinstance(preview, Preview)  # noqa: S101 - for the type checker
        target = self._call.target(path)
        self._walk = walk = TreeWalk(target, preview, self.transaction, self._plan.together)
        walk.mine = self.mine
        walk.finish = self._call.finish_hidden
        return walk

    def _fill(self, bundle: Bundle, until: float) -> Program:
        """Reach what is to be reached, as far as the time goes."""
        while bundle.todo:
            path = self._place = bundle.todo[-1]
            if self._walk is None and path not in self.mine:  # else it has appeared with another
                self._call.check_on_mount([parent_of(path) or path], but_above=True)
                self._set_out(path)
            yield from self._go_on()
            self._walk = None
            self._reached(path, bundle)
            if time.monotonic() >= until:
                return
