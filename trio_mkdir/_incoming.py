"""The paths of a call for many: checked and absolute, as many at once as are there."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from ._errors import as_mkdir_error
from ._paths import (
    absolute,
    beneath,
    checked,
    is_dot,
    parent_of,
    winds,
    without_dots,
    working_directory,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from ._paths import AnyPath, Root, StrOrBytesPath
    from ._plan import Plan
    from ._workers import Workers

    Paths: TypeAlias = Iterable[StrOrBytesPath] | AsyncIterable[StrOrBytesPath]

_AT_ONCE: Final = 8192
"""How many paths are planned together at the most: a plan needs no more memory than that."""
_LONGEST: Final = 4095
"""Bytes of a path that the kernel takes."""
_PATIENCE: Final = 0.050
"""Seconds after which no more is waited for once another path has come."""


class Incoming:
    """The paths that a call for many was given, in order.

    Those with a ``..`` in them are different beneath a ``root``: what is missing before a ``..`` is
    not made there, so what they lead to depends on what stands when it is their turn.
    """

    def __init__(self, paths: Paths, plan: Plan, root: Root | None) -> None:
        if isinstance(paths, (str, bytes, os.PathLike)):
            raise TypeError(f"paths must be an iterable of paths, not the path {paths!r}")
        self._later: AsyncIterator[StrOrBytesPath] | None = None
        self._now: Iterator[StrOrBytesPath] = iter(())
        if isinstance(paths, AsyncIterable):
            self._later = aiter(paths)
        else:
            self._now = iter(paths)
        self._plan = plan
        self._root = root
        self._here: dict[type, AnyPath] = {}
        """What relative paths are relative to."""
        self.winding: set[AnyPath] = set()
        """Those with a ``..`` in them, beneath a root."""
        self.given: dict[AnyPath, AnyPath] = {}
        """Those that are not as the caller wrote them, as he did."""

    def added_to(self, path: AnyPath) -> int:
        """How much of ``path`` is what it is relative to, that the caller did not write."""
        if self._root is not None:
            return len(absolute(path[:0], self._here[type(path)])) if path else 0
        given = self.given.get(path, path)
        if given[:1] in ("/", b"/", "", b""):
            return 0
        return len(absolute(given, self._here[type(given)])) - len(given)

    async def some(self) -> list[AnyPath]:
        """Some more; none if there are no more. A checkpoint."""
        found = self._all(itertools.islice(self._now, _AT_ONCE))
        until = trio.current_time() + _PATIENCE
        while self._later is not None and len(found) < _AT_ONCE:
            try:
                path = await anext(self._later)
            except StopAsyncIteration:
                self._later = None
                break
            found += self._all([path])
            if trio.current_time() >= until:
                break
        await trio.lowlevel.checkpoint()
        return found

    def turns(
        self, paths: list[AnyPath], again: Callable[[AnyPath], bool], *, atomic: bool
    ) -> Iterator[Callable[[], None]]:
        """How ``paths`` are planned, one after the other: each when those before it stand."""
        if atomic:
            yield from self._trees(paths)
            return
        winding = self.winding
        if winding.isdisjoint(paths):
            yield partial(self._plan.add, paths, again=again)
            return

        def where(path: AnyPath) -> Workers | None:
            return self._plan.workers_in(parent_of(path) or path) if path in winding else None

        for workers, some in itertools.groupby(paths, where):
            together = list(some)
            if workers is None:
                yield partial(self._plan.add, together, again=again)
            else:
                yield partial(self._plan.add_one_by_one, together, workers)

    def _trees(self, paths: list[AnyPath]) -> Iterator[Callable[[], None]]:
        """The same where each tree is made by itself: what winds is no part of one."""
        winding = {path for path in paths if winds(path)} if self._root is None else self.winding
        for path_winds, some in itertools.groupby(paths, winding.__contains__):
            on: dict[Workers, list[AnyPath]] = {}
            for path in some:
                workers = self._plan.workers_in(path)
                if path_winds:
                    yield partial(self._plan.add_one_by_one, [path], workers)
                else:
                    on.setdefault(workers, []).append(path)
            for workers, together in on.items():
                yield partial(self._plan.add_one_by_one, together, workers)

    def _all(self, paths: Iterable[StrOrBytesPath]) -> list[AnyPath]:
        if self._root is not None:
            return [self._inside(path) for path in paths]
        return [
            path
            # By far the most are whole already; to ask here costs half as much as to call.
            if type(path) is str
            and path[:1] == "/"
            and path[-1] != "/"
            and "/." not in path
            and "//" not in path
            and "\0" not in path
            and path.isascii()
            else self._anywhere(path)
            for path in paths
        ]

    def _anywhere(self, path: StrOrBytesPath) -> AnyPath:
        given, is_full = checked(path)
        if is_full:
            return self._named_once(given, given[:0])
        return self._named_once(given, self._working_directory(given))

    def _inside(self, path: StrOrBytesPath) -> AnyPath:
        root = self._text_of_root(path)
        try:
            given, full = beneath(root, path)
        except OSError as error:
            raise as_mkdir_error(error) from None
        if not winds(given):
            return self._named_once(given, root)
        while is_dot(full):  # as os.makedirs has it: "new/." is there as soon as "new" is
            full = parent_of(full) or root
        given = given[: len(full) - len(absolute(given, root))] or given
        self._keep(given, full)
        self.winding.add(full)
        return full  # as it is: nobody can tell without a look what it leads to

    def _named_once(self, given: AnyPath, here: AnyPath) -> AnyPath:
        """``given`` from ``here``; one directory has one name, however many slashes and dots."""
        plain = without_dots(given)
        if not plain:
            if given and self._root is None:
                self.given.setdefault(here, given)
            return here if given else given
        if len(given) > _LONGEST:
            plain = given  # the kernel refuses it as it is
        full = absolute(plain, here) if here else plain
        if plain != given:
            self.given[full] = given
            above = parent_of(given)
            while above is not None and (name := without_dots(above)):
                self.given.setdefault(absolute(name, here) if here else name, above)
                above = parent_of(above)
        elif here:
            self._keep(given, full)
        return full

    def _keep(self, given: AnyPath, full: AnyPath) -> None:
        added = len(full) - len(given)
        above: AnyPath | None = full
        while above is not None and len(above) > added and above not in self.given:
            self.given[above] = above[added:]
            above = parent_of(above)

    def _working_directory(self, path: AnyPath) -> AnyPath:
        here = self._here.get(type(path))
        if here is None:
            try:
                here = self._here[type(path)] = working_directory(path)
            except OSError as error:
                raise as_mkdir_error(error) from None
            self._plan.take_for_granted(here)  # it is never made, also not when it has vanished
        return here

    def _text_of_root(self, path: StrOrBytesPath) -> AnyPath:
        assert self._root is not None  # noqa: S101 - for the type checker
        in_bytes = isinstance(os.fspath(path), bytes)
        kind = bytes if in_bytes else str
        root = self._here.get(kind)
        if root is None:
            text = self._root.text
            root = self._here[kind] = os.fsencode(text) if in_bytes else os.fsdecode(text)
            if root:
                self._plan.begin_at(root)
        return root
