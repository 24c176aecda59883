"""Waiting for a change that somebody makes, in a worker thread or in a task."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from trio_mkdir import _step

if TYPE_CHECKING:
    from collections.abc import Callable


class News:
    """Wakes whoever waits for something each time that something has changed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiters: list[Callable[[], object]] = []

    def tell(self) -> None:
        """Something has changed; from any thread."""
        with self._lock:
            waiters, self._waiters = self._waiters, []
        for wake in waiters:
            wake()

    def block_until(self, condition: Callable[[], bool]) -> None:
        """Wait in a thread until ``condition()`` holds; it is asked again after each change."""
        changed = threading.Event()
        while not self._holds(condition, changed.set):
            changed.wait()
            changed.clear()

    async def wait_until(self, condition: Callable[[], bool]) -> None:  # noqa: ASYNC910
        """The same in a task; a checkpoint."""
        holds = False

        def does_not_hold(wake: Callable[[], object]) -> bool:
            nonlocal holds
            holds = self._holds(condition, wake)
            return not holds

        while True:
            await _step.until(does_not_hold)
            if holds:
                return

    def _holds(self, condition: Callable[[], bool], wake: Callable[[], object]) -> bool:
        # In this order: a change after the question is not missed.
        with self._lock:
            self._waiters.append(wake)
        return condition()
