"""An upload handler: everything that was uploaded is there, or nothing of it.

Runs anywhere, in a temporary directory::

    python examples/upload_handler.py

An upload is some files in a tree. They are written into a directory of their own, which gets its
name when everything is in it, and then it is announced. If anything fails on the way, or the client
hangs up and the handler is cancelled, what has been made so far is undone: the name, the files, the
directories, and the directory of the month, unless another upload is in it.

tests/test_upload_handler.py proves it, for every point at which the handler can be cancelled and
every operation that can fail; docs/testing.md tells how.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Awaitable, Callable, Mapping

import trio

import trio_mkdir

FILES = {"index.html": b"<img src=images/logo.png>", "images/logo.png": b"\x89PNG"}
PATIENCE = 2.0


class Disk:
    """What the handler does with files; a test takes another one."""

    async def write(self, path: str, data: bytes) -> None:
        """Make a file with ``data`` in it."""
        await trio.Path(path).write_bytes(data)

    async def rename(self, old: str, new: str) -> None:
        """Give what is at ``old`` the name ``new``."""
        await trio.Path(old).rename(new)

    async def unlink(self, path: str) -> None:
        """Remove a file, if it is there."""
        await trio.Path(path).unlink(missing_ok=True)


DISK = Disk()
POLICY = trio_mkdir.Policy()


async def store_upload(
    directory: str,
    name: str,
    files: Mapping[str, bytes],
    announce: Callable[[str], Awaitable[object]],
    *,
    disk: Disk = DISK,
    policy: trio_mkdir.Policy = POLICY,
) -> None:
    """Store ``files`` as ``directory/name`` and announce it, or do nothing of that."""
    final, incoming = f"{directory}/{name}", f"{directory}/.{name}.incoming"
    async with trio_mkdir.open_rollback_nursery(policy=policy) as nursery:
        await nursery.makedirs(incoming)

        async def store(path: str, data: bytes) -> None:
            await nursery.makedirs(os.path.dirname(path), exist_ok=True)
            nursery.push_undo(disk.unlink, path)  # first, as half a file has to go as well
            await disk.write(path, data)

        async with trio.open_nursery() as writers:
            for path, data in files.items():
                writers.start_soon(store, f"{incoming}/{path}", data)

        await disk.rename(incoming, final)
        nursery.push_undo(disk.rename, final, incoming)
        await announce(final)


def tell(directory: str) -> None:
    """Print what there is."""
    for parent, _, names in os.walk(directory):
        for name in names:
            print("  there is", f"{parent}/{name}".removeprefix(f"{directory}/"))


async def main() -> None:
    """Store one upload, and another one whose client hangs up."""
    with tempfile.TemporaryDirectory() as directory:

        async def announce(path: str) -> None:
            print("  announced:", path.removeprefix(f"{directory}/"))
            await trio.lowlevel.checkpoint()

        print("an upload")
        with trio.fail_after(PATIENCE):
            await store_upload(f"{directory}/2024/06", "holidays", FILES, announce)
        tell(directory)

        print("an upload whose client hangs up in the last moment")
        with trio.CancelScope() as client:

            async def hang_up(path: str) -> None:
                client.cancel()
                await announce(path)

            await store_upload(f"{directory}/2024/07", "work", FILES, hang_up)
        tell(directory)
        print("  nothing else, not even 2024/07:", *os.listdir(f"{directory}/2024"))


if __name__ == "__main__":
    trio.run(main)
