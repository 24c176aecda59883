"""Wait for what no event tells, with a bound, in any thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import trio

PATIENCE = 10.0
"""Seconds after which a test fails instead of waiting for what does not come."""

_LOOK_EVERY = 0.001


def wait_until(condition: Callable[[], object], *, timeout: float = PATIENCE) -> None:
    """Return once *condition* holds; raise `TimeoutError` if that does not come."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} still does not hold after {timeout} seconds")
        time.sleep(_LOOK_EVERY)


async def wait_until_async(
    condition: Callable[[], object],
    *,
    timeout: float = PATIENCE,  # noqa: ASYNC109 - real seconds, whatever clock trio runs on
) -> None:
    """Do as `wait_until` does, while trio's other tasks go on."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} still does not hold after {timeout} seconds")
        await trio.sleep(_LOOK_EVERY)


def busy_threads() -> list[str]:
    """Return the names of the threads that work for trio_mkdir right now."""
    names = (thread.name for thread in threading.enumerate())
    return [name for name in names if name.startswith("trio_mkdir")]
