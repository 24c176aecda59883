"""What a call for many paths makes: all of them together as one tree, each directory once.

The unit of work is a *bundle*: what is to be made in one directory. It is ready as soon as that
directory stands. The kernel lets only one thread at a time make something in a directory, so a
bundle is with one thread at a time; and whoever is free takes the one with the most below it, so
that what can only be made one after the other is not left for the end.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
from typing import TYPE_CHECKING

import attrs

from ._items import spelling
from ._paths import parent_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._paths import AnyPath
    from ._workers import Workers


@attrs.define(eq=False)
class Bundle:
    """What is to be made in one directory."""

    todo: list[AnyPath]
    """The next one last."""
    weight: int = 0
    """How many directories that comes to, with all below."""
    is_flat: bool = True
    """Whether nothing is below them; then all of them were asked for."""
    workers: Workers | None = None
    """Of the mount that they are on, once it is ready."""
    stood: bool = False
    """Whether one that others are below stood already, so that the next ones will."""


class Plan:
    """The tree of all paths, and the bundles of it that are ready; usable from any thread.

    ``workers_in`` tells by whose worker threads something is made in a directory.
    """

    def __init__(self, workers_in: Callable[[AnyPath], Workers]) -> None:
        self.workers_in = workers_in
        self._lock = threading.Lock()
        self._known: dict[AnyPath, int] = {}
        """Every directory that is needed, and with whom it was added; 0 if it was not."""
        self._turn = 0
        self._wanted: set[AnyPath] = set()
        self._bundles: dict[AnyPath | None, Bundle] = {}
        """By the directory that they are made in."""
        self._ready: dict[Workers, list[tuple[int, int, Bundle]]] = {}
        self._serial = itertools.count()
        self._unfinished = 0
        self._outside: set[AnyPath] = set()
        self._below: dict[AnyPath | None, list[AnyPath]] = {}
        """What was added one by one, and is on the way to it, by the directory that it is in."""
        self.done = 0
        """How many of the paths that were asked for stand."""

    # Planning

    def take_for_granted(self, directory: AnyPath) -> None:
        """``directory`` stands, and what is above it; unless it is asked for it is not made."""
        above: AnyPath | None = directory
        while above is not None and above not in self._known:
            self._known[above] = 0
            above = parent_of(above)

    def begin_at(self, root: AnyPath) -> None:
        """``root`` stands, and nobody asks for what is above it."""
        self.take_for_granted(root)
        above = parent_of(root)
        while above is not None:
            self._outside.add(above)
            above = parent_of(above)

    def add_one_by_one(self, paths: Iterable[AnyPath], workers: Workers) -> None:
        """More ``paths``, when all before stand: in this order, and of each only itself.

        What is missing above them is for a walk to make. They are all on the mount of ``workers``.
        """
        known, wanted = self._known, self._wanted
        self._turn += 1
        self._bundles, self._below = {}, {}
        todo: list[AnyPath] = []
        for path in paths:
            if path in wanted:
                self.done += 1
                continue
            wanted.add(path)
            todo.append(path)
            above: AnyPath | None = path
            while above is not None and above not in known:
                known[above] = self._turn
                parent = parent_of(above)
                self._below.setdefault(parent, []).append(above)
                above = parent
        if todo:
            self._unfinished = 1
            self.put_back(Bundle(todo[::-1], len(todo), workers=workers))

    def add(self, paths: Iterable[AnyPath], *, again: Callable[[AnyPath], bool]) -> None:
        """More ``paths``, when all that were added before stand.

        ``again``: whether one that was only on the way to others counts as not made yet.
        """
        known, wanted = self._known, self._wanted
        bundles: dict[AnyPath | None, Bundle] = {}
        first = not self._turn
        self._turn += 1
        for path in paths:
            if path in known:
                if path in wanted or (0 < known[path] < self._turn and not again(path)):
                    self.done += 1
                    continue
                if known[path] == self._turn:  # on the way to another one
                    wanted.add(path)
                    continue
                del known[path]
            wanted.add(path)
            # Beside another one, as a rule: then nothing is above it that is not known.
            beside = bundles.get(path[: path.rfind("/")]) if isinstance(path, str) else None
            if beside is None:
                self._grow(path, bundles)
            else:
                known[path] = self._turn
                beside.todo.append(path)
        self._bundles = bundles
        self._weigh()
        self._unfinished = len(bundles)
        standing = [path for path in bundles if path is None or known[path] < self._turn]
        for directory in standing:
            self._get_ready(self._fork(directory) if first else directory)

    def _grow(self, path: AnyPath, bundles: dict[AnyPath | None, Bundle]) -> None:
        known, turn = self._known, self._turn
        above: AnyPath | None = path
        while above is not None and above not in known:
            path = above
            known[path] = turn
            above = parent_of(path)
            if above in bundles:
                bundles[above].todo.append(path)
            else:
                bundles[above] = Bundle([path])

    def _weigh(self) -> None:
        bundles = self._bundles
        for directory in sorted(bundles, key=lambda directory: -len(directory or "")):
            bundle = bundles[directory]
            bundle.weight += len(bundle.todo)
            bundle.todo.reverse()
            above = None if directory is None else bundles.get(parent_of(directory))
            if above is not None:
                above.weight += bundle.weight
                above.is_flat = False

    def _fork(self, directory: AnyPath | None) -> AnyPath | None:
        """What is taken to stand until the kernel says that it does not: the way to all paths."""
        while True:
            (path, *others) = self._bundles[directory].todo
            if others or path in self._wanted:
                return directory
            self._unfinished -= 1
            directory = path

    # Carrying it out

    @property
    def finished(self) -> bool:
        """Whether everything stands that was added."""
        return not self._unfinished

    def is_wanted(self, path: AnyPath) -> bool:
        """Whether ``path`` was asked for, and is not only on the way to another one."""
        return path in self._wanted

    def is_above(self, path: AnyPath) -> bool:
        """Whether something is still to be made in ``path``."""
        return path in self._bundles

    def take(self, workers: Workers | None = None) -> Bundle | None:
        """The ready bundle with the most below it, on one mount or on any; None without one."""
        with self._lock:
            heaps = self._ready.values() if workers is None else [self._ready.get(workers, [])]
            heap = min(filter(None, heaps), key=lambda heap: heap[0][:2], default=None)
            return None if heap is None else heapq.heappop(heap)[2]

    def put_back(self, bundle: Bundle) -> None:
        """Let others go on with ``bundle``, or take one with more below it."""
        assert bundle.workers is not None  # noqa: S101 - for the type checker
        with self._lock:
            heap = self._ready.setdefault(bundle.workers, [])
            heapq.heappush(heap, (-bundle.weight, next(self._serial), bundle))

    def together(self, missing: list[AnyPath]) -> list[AnyPath]:
        """``missing``, and whatever else was added with them one by one and is below them.

        Those above come first. Nothing twice that is only spelled otherwise.
        """
        whole = [*missing]
        names = {spelling(path) for path in whole}
        for directory in whole:  # it grows meanwhile
            for path in self._below.get(directory, ()):
                name = spelling(path)
                if name not in names:
                    names.add(name)
                    whole.append(path)
        return whole

    def reached(self, path: AnyPath, bundle: Bundle) -> None:
        """The next one of ``bundle`` stands, ``path``."""
        bundle.todo.pop()
        bundle.weight -= 1
        if path in self._bundles:
            bundle.weight -= self._bundles[path].weight
            self._get_ready(path)
        self._count(bundle, int(path in self._wanted))

    def hand_over(self, bundle: Bundle, workers: Workers) -> None:
        """The next one of ``bundle`` is for ``workers``, and no longer in it."""
        path = bundle.todo.pop()
        own = Bundle([path], 1, is_flat=False, workers=workers)
        if path in self._bundles:
            own.weight += self._bundles[path].weight
        bundle.weight -= own.weight
        with self._lock:
            self._unfinished += 1
        self.put_back(own)
        self._count(bundle, 0)

    def reached_many(self, bundle: Bundle) -> None:
        """Some of a flat ``bundle`` stand, and are no longer to be done."""
        made = bundle.weight - len(bundle.todo)
        bundle.weight -= made
        self._count(bundle, made)

    def _count(self, bundle: Bundle, wanted: int) -> None:
        with self._lock:
            self.done += wanted
            if not bundle.todo:
                self._unfinished -= 1

    def _get_ready(self, directory: AnyPath | None) -> None:
        bundle = self._bundles[directory]
        bundle.workers = self.workers_in(bundle.todo[-1] if directory is None else directory)
        self.put_back(bundle)

    def paths(self) -> list[AnyPath]:
        """Every directory that is needed, deepest first; not what nobody can have made."""
        above: set[AnyPath] = set()
        for workers in self._ready:
            path: AnyPath | None = workers.mount.root_directory or None
            while path is not None and path not in above:
                above |= {path, os.fsencode(path)}
                path = parent_of(path)
        return sorted(self._known.keys() - above - self._outside, key=len, reverse=True)
