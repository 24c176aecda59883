"""An open directory of a `FaultyFilesystem`: its operations go as the script has them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from trio_mkdir._os import Directory
    from trio_mkdir._paths import AnyPath

    from ._operations import Operations

T = TypeVar("T")


class FaultyDirectory:
    """What was opened at ``path``, with the operations of the filesystem that it is in."""

    def __init__(self, path: AnyPath, opened: Directory, operations: Operations) -> None:
        self._path = path
        self._opened = opened
        self._operations = operations

    def _carry_out(self, operation: str, do: Callable[[], T]) -> T:
        return self._operations.carry_out(operation, self._path, do)

    def stat(self) -> os.stat_result:
        return self._carry_out("fstat", self._opened.stat)

    def chmod(self, mode: int) -> None:
        self._carry_out("chmod", partial(self._opened.chmod, mode))

    def chown(self, uid: int, gid: int) -> None:
        self._carry_out("chown", partial(self._opened.chown, uid, gid))

    def listxattr(self) -> list[str]:
        return self._carry_out("listxattr", self._opened.listxattr)

    def getxattr(self, name: str) -> bytes:
        return self._carry_out("getxattr", partial(self._opened.getxattr, name))

    def setxattr(self, name: str, value: bytes) -> None:
        self._carry_out("setxattr", partial(self._opened.setxattr, name, value))

    def removexattr(self, name: str) -> None:
        self._carry_out("removexattr", partial(self._opened.removexattr, name))

    def fsync(self) -> None:
        self._carry_out("fsync", self._opened.fsync)

    def close(self) -> None:
        self._opened.close()
