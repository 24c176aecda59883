"""The upload handler of the examples, swept: the whole upload or nothing, whatever happens.

A test of a program that uses this library, as somebody else would write it. docs/testing.md shows
parts of it.
"""

from __future__ import annotations

import errno
import importlib.util
import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import trio_mkdir
from trio_mkdir import RollbackError
from trio_mkdir.testing import (
    FaultyFilesystem,
    Outcome,
    SweepFailed,
    assert_nothing_leaked,
    sweep_cancellations,
    sweep_faults,
)

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

ROOT = Path(__file__).resolve().parent.parent


def load_example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


upload_handler = load_example("upload_handler")

FILES = {"index.html": b"<img src=images/logo.png>", "images/logo.png": b"\x89PNG"}


class FaultyDisk:
    """The handler's own file operations, in the same record and under the same faults."""

    def __init__(self, filesystem: FaultyFilesystem) -> None:
        self._filesystem = filesystem
        self._disk = upload_handler.Disk()

    async def write(self, path: str, data: bytes) -> None:
        await self._filesystem.perform("write", path, self._disk.write, path, data)

    async def rename(self, old: str, new: str) -> None:
        await self._filesystem.perform("rename", old, self._disk.rename, old, new)

    async def unlink(self, path: str) -> None:
        await self._filesystem.perform("unlink", path, self._disk.unlink, path)


@attrs.frozen
class Site:
    """Where one run of a sweep stores its upload."""

    root: Path
    filesystem: FaultyFilesystem
    left: list[trio_mkdir.Kept] = attrs.field(factory=list)
    """What the library says that it could not undo."""

    @property
    def policy(self) -> trio_mkdir.Policy:
        return trio_mkdir.Policy(filesystem=self.filesystem, observers=[self.observe])

    def observe(self, event: trio_mkdir.Event) -> None:
        if isinstance(event, trio_mkdir.Kept):
            self.left.append(event)

    async def upload(self, name: str) -> None:
        await upload_handler.store_upload(
            f"{self.root}/2024/06",
            name,
            FILES,
            self.announce,
            disk=FaultyDisk(self.filesystem),
            policy=self.policy,
        )

    async def announce(self, path: str) -> None:
        await self.filesystem.perform("announce", path, trio.lowlevel.checkpoint)

    def tree(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*")}


NOTHING: set[str] = set()
WHOLE = {
    "2024",
    "2024/06",
    "2024/06/holidays",
    "2024/06/holidays/images",
    "2024/06/holidays/images/logo.png",
    "2024/06/holidays/index.html",
}


@pytest.fixture
def new_site(tmp_path: Path) -> Callable[[], Site]:
    numbers = itertools.count()

    def new_site() -> Site:
        root = tmp_path / str(next(numbers))
        root.mkdir()
        return Site(root, FaultyFilesystem.wrap(threads=False))

    return new_site


async def upload(site: Site) -> None:
    async with assert_nothing_leaked():
        await site.upload("holidays")


def whole_or_nothing(outcome: Outcome[Site]) -> None:
    assert outcome.state.tree() == (WHOLE if outcome.completed else NOTHING)


async def test_cancelled_at_any_point_it_is_whole_or_nothing(new_site: Callable[[], Site]) -> None:
    summary = await sweep_cancellations(upload, setup=new_site, check=whole_or_nothing)
    assert summary.cancelled > 50


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
async def test_with_a_fault_anywhere_it_is_whole_or_nothing(
    number: int, new_site: Callable[[], Site]
) -> None:
    summary = await sweep_faults(
        upload,
        lambda site: site.filesystem,
        errno=number,
        faults=1,
        setup=new_site,
        check=whole_or_nothing,
    )
    assert summary.points > 20


def could_not_undo(error: BaseException | None) -> list[RollbackError]:
    if isinstance(error, BaseExceptionGroup):
        return [found for each in error.exceptions for found in could_not_undo(each)]
    return [error] if isinstance(error, RollbackError) else []


async def test_with_a_second_fault_while_it_is_undone_we_are_told_what_is_left(
    new_site: Callable[[], Site],
) -> None:
    def check(outcome: Outcome[Site]) -> None:
        if not outcome.state.left and not could_not_undo(outcome.error):
            whole_or_nothing(outcome)

    await sweep_faults(
        upload,
        lambda site: site.filesystem,
        errno=errno.EIO,
        operations={"mkdir", "rmdir", "write", "rename", "unlink", "announce"},
        setup=new_site,
        check=check,
    )


async def test_an_upload_that_is_cancelled_hurts_no_other_of_the_same_month(
    new_site: Callable[[], Site],
) -> None:
    async with trio.open_nursery() as nursery:

        async def new_site_with_an_upload_on_its_way() -> tuple[Site, trio.Event]:
            site, done = new_site(), trio.Event()

            async def upload_another() -> None:
                await site.upload("work")
                done.set()

            nursery.start_soon(upload_another)
            return site, done

        async def upload(state: tuple[Site, trio.Event]) -> None:
            await state[0].upload("holidays")

        async def check(outcome: Outcome[tuple[Site, trio.Event]]) -> None:
            site, done = outcome.state
            await done.wait()
            other = {path.replace("holidays", "work") for path in WHOLE}
            assert site.tree() == (WHOLE | other if outcome.completed else other)

        await sweep_cancellations(upload, setup=new_site_with_an_upload_on_its_way, check=check)


async def test_a_deadline_is_kept_even_if_the_disk_is_slow(
    new_site: Callable[[], Site], autojump_clock: trio.testing.MockClock
) -> None:
    site = new_site()
    site.filesystem.delay("mkdir", "*", 0.75)
    before = trio.current_time()
    with trio.move_on_after(2):
        await site.upload("holidays")
    assert trio.current_time() - before <= 2 + site.policy.rollback_timeout
    await trio_mkdir.wait_settled()
    assert site.tree() == NOTHING


# The same without care


async def store_upload_carelessly(site: Site) -> None:
    disk = FaultyDisk(site.filesystem)
    final, incoming = f"{site.root}/holidays", f"{site.root}/.holidays.incoming"
    async with trio_mkdir.open_rollback_nursery(policy=site.policy) as nursery:
        await nursery.makedirs(incoming)
        nursery.push_undo(disk.unlink, f"{incoming}/index.html")
        await disk.write(f"{incoming}/index.html", FILES["index.html"])
        await disk.rename(incoming, final)
        await site.announce(final)


async def test_what_was_forgotten_is_found(new_site: Callable[[], Site]) -> None:
    # What was made is undone where it was made; but there it is not any more.
    def check(outcome: Outcome[Site]) -> None:
        assert bool(outcome.state.tree()) == outcome.completed

    with pytest.raises(SweepFailed) as caught:
        await sweep_cancellations(store_upload_carelessly, setup=new_site, check=check)
    assert re.fullmatch(
        r"the check failed in the run that was cancelled at point \d+, where it was in\n"
        r"task .*:\n"
        r"  File .*, in store_upload_carelessly\n"
        r"    await disk.rename\(incoming, final\)\n"
        r"(.*\n)*",
        str(caught.value),
    )


# The page that tells of all this


def quotable(*files: Path) -> str:
    """What the page may show: what is executed, as it stands there, however far indented."""
    return "\n".join(
        " ".join(line.split()) for file in files for line in file.read_text("utf-8").splitlines()
    )


PAGE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_what_the_page_shows_is_executed_here(snippet: str) -> None:
    example, doubles = ROOT / "examples/upload_handler.py", ROOT / "tests/test_faulty_filesystem.py"
    shown = "\n".join(" ".join(line.split()) for line in snippet.splitlines())
    assert shown in quotable(example, doubles, Path(__file__))
