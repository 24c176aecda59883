"""Making public names look public."""

from __future__ import annotations

import sys
from typing import Any, cast

import trio

if sys.version_info < (3, 11):  # pragma: no cover - trio depends on it there
    from exceptiongroup import BaseExceptionGroup


def publish(namespace: dict[str, Any], names: list[str]) -> None:
    """Give what ``names`` name the module in whose ``namespace`` users find it.

    Tracebacks, `help` and pickles then say ``trio_mkdir.Policy``, wherever it was written.
    """
    module = namespace["__name__"]
    for name in names:
        namespace[name].__module__ = module


def ungrouped(ended: BaseException) -> BaseException:
    """What has ended the waiting for the tasks of a nursery, as it was before that grouped it.

    Anything rather than a `trio.Cancelled`: that one comes again.
    """
    while isinstance(ended, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", ended)
        _, others = group.split(trio.Cancelled)
        ended = (others or group).exceptions[0]
    return ended
