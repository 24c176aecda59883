"""Making public names look public."""

from __future__ import annotations

from typing import Any


def publish(namespace: dict[str, Any], names: list[str]) -> None:
    """Give what ``names`` name the module in whose ``namespace`` users find it.

    Tracebacks, `help` and pickles then say ``trio_mkdir.Policy``, wherever it was written.
    """
    module = namespace["__name__"]
    for name in names:
        namespace[name].__module__ = module
