"""What `makedirs_many` is asked for beside the directories: done to all, before any is final."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio
from doubles import Memory, first
from gates import Stage
from test_many_sweeps import Fencing
from trio.testing import MockClock

from trio_mkdir import (
    MkdirError,
    NotMounted,
    Policy,
    RootCause,
    StepTimeout,
    _finish,
    _visit,
    makedirs_many,
    open_rollback_nursery,
    wait_settled,
)
from trio_mkdir._paths import AnyPath
from trio_mkdir._registry import registry
from trio_mkdir._walk import Failed
from trio_mkdir.testing import FaultyFilesystem, assert_nothing_leaked

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, and a umask."""
    directory = tmp_path.resolve() / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    before = os.umask(0o022)
    yield directory
    os.umask(before)


class Opened(Stage):
    """A stage that says that it can open directories."""

    def open(self, path: AnyPath) -> Any:
        raise NotImplementedError

    def rename(self, source: AnyPath, destination: AnyPath) -> None:
        raise NotImplementedError


@pytest.fixture
def stage(here: Path) -> Iterator[Opened]:
    with Opened.on(here) as stage:
        assert isinstance(stage, Opened)
        yield stage


@pytest.fixture
def disk() -> FaultyFilesystem:
    """A filesystem in memory, without threads."""
    filesystem = FaultyFilesystem(threads=False)
    filesystem.memory.add_directory("/srv")
    return filesystem


def mode_of(path: Path | str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@attrs.define
class Finisher:
    """Stands for what gives directories away and what writes them to the disk."""

    root: str
    told: list[tuple[str, list[str]]] = attrs.field(factory=list[tuple[str, list[str]]])
    """What was done, and to what."""
    modes: dict[str, tuple[int, int, bool]] = attrs.field(factory=dict[str, tuple[int, int, bool]])
    """What each had by then, what it is to have, and whether it was asked for."""
    workers: dict[str, Any] = attrs.field(factory=dict[str, Any])
    failures: list[Failed] = attrs.field(factory=list[Failed])
    prepared: list[str] = attrs.field(factory=list[str])
    """Where, before anything was made."""

    def prepare(self, wanted: object, path: AnyPath, system: object) -> Any:
        self.prepared.append(self._name(os.fsdecode(path)))
        yield "umask", path
        return wanted

    def give(
        self,
        grant: object,
        made: Sequence[Any],
        asked: Callable[[AnyPath], tuple[int, bool]],
        transaction: Any,
        filesystem: object,
    ) -> Any:
        for item in reversed(made):
            yield "stat", item.path
            status = self._stat(transaction, item.path)
            now = stat.S_IMODE(status.st_mode)
            name = self._name(item.path)
            self.modes[name] = (now, *asked(item.path))
            self.workers[name] = item.workers
        self._tell("give", made)

    def sync(self, made: Sequence[Any], transaction: Any) -> Any:
        for item in made:
            yield "stat", item.path
            self._stat(transaction, item.path)
        if self.failures:
            raise self.failures.pop(0)
        self._tell("sync", made)

    def _stat(self, transaction: Any, path: str) -> os.stat_result:
        try:
            status: os.stat_result = transaction.filesystem.stat(path)
        except FileNotFoundError:
            raise Failed(errno.ENOENT, path, RootCause.VANISHED) from None
        return status

    def _name(self, path: str) -> str:
        return os.path.relpath(path, self.root)

    def _tell(self, what: str, made: Sequence[Any]) -> None:
        self.told.append((what, [self._name(item.path) for item in made]))

    def install(self, monkeypatch: pytest.MonkeyPatch) -> Finisher:
        monkeypatch.setattr(_finish, "owning", lambda system: system)
        monkeypatch.setattr(_finish, "prepare", self.prepare)
        monkeypatch.setattr(_finish, "give", self.give)
        monkeypatch.setattr(_finish, "sync", self.sync)
        return self


@pytest.fixture
def finisher(here: Path, monkeypatch: pytest.MonkeyPatch) -> Finisher:
    return Finisher(str(here)).install(monkeypatch)


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> Finisher:
    return Finisher("/").install(monkeypatch)


# What is finished, and when


@pytest.mark.parametrize(
    "asked", [{"exact_mode": True}, {"owner": 0}, {"group": 0}, {"like": "/"}], ids=str
)
async def test_what_becomes_somebody_elses_is_closed_until_all_of_it_stands(
    here: Path, finisher: Finisher, asked: dict[str, Any]
) -> None:
    os.mkdir("there")
    paths = ["a/b/c", "a/b", *(f"d/{number}" for number in range(5)), "there", "there/e"]
    await makedirs_many(paths, 0o751, parent_mode=0o511, **asked)
    # Closed to everybody else; and what it is to become is known.
    closed = 0o700 if "like" in asked else 0o500  # that of a template is not known yet
    assert finisher.modes["a"] == finisher.modes["d"] == (closed, 0o511, False)
    made = {"a/b", "a/b/c", "there/e", *(f"d/{number}" for number in range(5))}
    assert {path: finisher.modes[path] for path in made} == dict.fromkeys(
        made, (0o700, 0o751, True)
    )
    assert "there" not in finisher.modes  # it stood before
    assert finisher.prepared == ["a/b/c"]
    assert [what for what, _ in finisher.told] == ["give"]


async def test_each_is_finished_once_after_what_it_is_in(here: Path, finisher: Finisher) -> None:
    paths = [f"a/{number % 7}/{number}" for number in range(300)]
    await makedirs_many(paths, durable=True, exact_mode=True)
    ((_, given), (_, synced)) = finisher.told
    assert given == synced
    assert len(given) == len(set(given)) == 308
    place = {path: number for number, path in enumerate(given)}
    assert all(place[os.path.dirname(path)] < place[path] for path in given if path != "a")


async def test_what_only_has_to_last_is_made_as_it_is_to_be(here: Path, finisher: Finisher) -> None:
    await makedirs_many(["a/b", "a/c"], durable=True)
    assert finisher.told == [("sync", ["a", "a/b", "a/c"])]
    assert mode_of("a") == mode_of("a/b") == 0o755
    finisher.told.clear()
    await makedirs_many(["a/b"], durable=True)
    assert finisher.told == []
    await makedirs_many([], durable=True)


async def test_what_is_made_in_a_nursery_is_finished_before_it_ends(
    here: Path, finisher: Finisher
) -> None:
    async with open_rollback_nursery() as nursery:
        await nursery.makedirs_many(["a/b", "c"], durable=True, owner=0)
        assert [what for what, _ in finisher.told] == ["give", "sync"]
        nursery.cancel_scope.cancel()
    assert os.listdir(here) == []


async def test_beneath_a_root_it_is_finished_in_there(here: Path, finisher: Finisher) -> None:
    os.mkdir("root")
    await makedirs_many(["a/b", "a/../c"], durable=True, beneath="root")
    assert finisher.told == [("sync", ["root/a", "root/a/b", "root/c"])]


async def test_it_takes_as_many_visits_as_any_other_work(
    disk: FaultyFilesystem,
    autojump_clock: MockClock,
    in_memory: Finisher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_visit, "time", SimpleNamespace(monotonic=trio.current_time))
    disk.delay("stat", "*", 1.0)
    policy = Policy(filesystem=disk, step_timeout=1.5, rollback_timeout=100)
    paths = [f"/srv/a/{number}" for number in range(9)]
    report = await makedirs_many(paths, durable=True, policy=policy)
    assert report.steps > 10
    began = trio.current_time()
    with trio.move_on_after(3.5):
        await makedirs_many([f"{path}/x" for path in paths], durable=True, policy=policy)
    assert trio.current_time() - began <= 5  # and not nine
    assert disk.memory.paths() == ["/srv", "/srv/a", *paths]


# Trouble


async def test_a_failure_of_finishing_undoes_everything(here: Path, finisher: Finisher) -> None:
    finisher.failures = [Failed(errno.EIO, str(here / "a"))]
    async with assert_nothing_leaked():
        with pytest.raises(MkdirError) as caught:
            await makedirs_many(["a/b", "c"], durable=True)
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, "a")
    assert os.listdir(here) == []
    assert finisher.told == []


async def test_a_failure_of_finishing_that_passes_is_tried_again(
    here: Path, finisher: Finisher
) -> None:
    finisher.failures = [Failed(errno.EBUSY, str(here / "a"))]
    report = await makedirs_many(["a/b", "c"], durable=True)
    assert [retry.cause for retry in report.retries] == [RootCause.BUSY]
    assert [(what, sorted(made)) for what, made in finisher.told] == [("sync", ["a", "a/b", "c"])]


async def test_what_vanishes_before_it_is_finished_is_made_again_and_finished(
    stage: Opened, finisher: Finisher
) -> None:
    vanish = partial(os.rmdir, stage.at("a"))
    stage.script("stat", stage.at("a"), first(vanish))
    paths = [stage.at("a"), stage.at("b")]
    await makedirs_many(paths, 0o750, durable=True, owner=0, policy=stage.policy())
    assert finisher.told == [("give", ["a", "b"]), ("sync", ["a", "b"])]
    assert finisher.modes["a"] == (0o700, 0o750, True)
    assert await stage.settled() == ["a", "b"]


async def test_what_vanishes_after_it_was_finished_is_made_again_and_finished(
    stage: Opened, finisher: Finisher
) -> None:
    async with open_rollback_nursery(policy=stage.policy()) as nursery:
        await nursery.makedirs(stage.at("x"))  # so that it has to look
        vanish = partial(os.rmdir, stage.at("a"))
        stage.script("lstat", stage.at("a"), first(vanish))
        await nursery.makedirs_many([stage.at("a"), stage.at("b")], durable=True)
    assert finisher.told == [("sync", ["a", "b"]), ("sync", ["a"])]
    assert await stage.settled() == ["a", "b", "x"]


async def test_what_hangs_while_it_is_finished_is_a_step_timeout(
    disk: FaultyFilesystem, autojump_clock: MockClock, in_memory: Finisher
) -> None:
    hold = disk.hold("stat", "/srv/a/5", when="before")
    policy = Policy(filesystem=disk, step_timeout=1.0, retries={}, rollback_timeout=0)
    with pytest.raises(StepTimeout) as caught:
        await makedirs_many([f"/srv/a/{n}" for n in range(9)], durable=True, policy=policy)
    assert caught.value.filename == "/srv/a/5"
    hold.release()
    with trio.fail_after(100):
        await wait_settled()
    assert disk.memory.paths() == ["/srv"]


async def test_each_mount_is_finished_by_its_own_workers(
    disk: FaultyFilesystem, autojump_clock: MockClock, in_memory: Finisher
) -> None:
    disk.memory.add_directory("/nas")
    disk.mount_at("/nas")
    hold = disk.hold("stat", "/nas/a", when="before")
    policy = Policy(filesystem=disk, rollback_timeout=0, step_timeout=1000)
    async with trio.open_nursery() as nursery:
        paths = ["/srv/a/b", "/nas/a", "/srv/c"]
        nursery.start_soon(partial(makedirs_many, paths, durable=True, policy=policy))
        await hold.wait_arrived()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    on_nas, on_root = (registry.workers.on(disk.mount(path)) for path in ("/nas", "/srv"))
    assert (on_nas.stuck, on_root.stuck) == (1, 0)
    hold.release()
    with trio.fail_after(100):
        await wait_settled()
    assert disk.memory.paths() == ["/nas", "/srv"]


# What cannot be done


@pytest.mark.parametrize("asked", [{"durable": True}, {"owner": 0}])
async def test_where_directories_cannot_be_opened_nothing_is_made(asked: dict[str, Any]) -> None:
    memory = Memory()
    with pytest.raises(NotImplementedError, match="cannot open directories"):
        await makedirs_many(["/a"], policy=Policy(filesystem=memory), **asked)
    assert memory.tree() == []


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"owner": -1}, ValueError),
        ({"group": 1.5}, TypeError),
        ({"like": ""}, ValueError),
        ({"on_mount": 3}, TypeError),
    ],
)
async def test_what_cannot_be_asked_for_is_told(
    here: Path, asked: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await makedirs_many(["a"], **asked)
    async with open_rollback_nursery() as nursery:
        with pytest.raises(error):
            await nursery.makedirs_many(["a"], **asked)
    assert os.listdir(here) == []


# The mount


@pytest.fixture
def nas(disk: FaultyFilesystem) -> FaultyFilesystem:
    disk.memory.add_directory("/nas/sub")
    disk.mount_at("/nas")
    disk.memory.add_directory("/nas/sub")
    return disk


async def test_on_its_mount_it_is_made(nas: FaultyFilesystem, autojump_clock: MockClock) -> None:
    policy = Policy(filesystem=nas)
    for point in ("/nas", b"/nas", "/nas/", "/srv/../nas/."):
        await makedirs_many(["/nas/a/b", "/nas", b"/nas/c"], on_mount=point, policy=policy)


async def test_beneath_a_root_it_is_made_on_its_mount(autojump_clock: MockClock) -> None:
    disk = Fencing(threads=False)
    disk.memory.add_directory("/nas")
    disk.mount_at("/nas")
    policy = Policy(filesystem=disk)
    await makedirs_many(["x", "x/../y", "."], beneath="/nas", on_mount="/nas", policy=policy)
    with pytest.raises(MkdirError):
        await makedirs_many(["nas/x", "x"], beneath="/", on_mount="/nas", policy=policy)
    assert disk.memory.paths() == ["/nas", "/nas/x", "/nas/y"]


@pytest.mark.parametrize("wrong", ["/srv/x", "/nasty/x", "/", "/nas/usb/x", "/nas/usb"])
async def test_what_is_not_on_its_mount_is_refused_before_anything_is_asked(
    nas: FaultyFilesystem, autojump_clock: MockClock, wrong: str
) -> None:
    nas.memory.add_directory("/nas/usb")
    nas.mount_at("/nas/usb")
    before = nas.memory.paths()
    with pytest.raises(MkdirError) as caught:
        await makedirs_many(["/nas/a", wrong], on_mount="/nas", policy=Policy(filesystem=nas))
    assert caught.value.filename == wrong
    assert nas.operations == ()
    assert nas.memory.paths() == before


async def test_a_mount_that_is_not_there_is_refused(
    disk: FaultyFilesystem, autojump_clock: MockClock
) -> None:
    disk.memory.add_directory("/nas")
    with pytest.raises(NotMounted):
        await makedirs_many(["/nas/a"], on_mount="/nas", policy=Policy(filesystem=disk))
    assert disk.operations == ()
    await makedirs_many([], on_mount="/nas", policy=Policy(filesystem=disk))


@pytest.mark.parametrize("when", ["/nas/a/x", "/nas/b/y"])
async def test_a_mount_that_vanishes_meanwhile_ends_it_and_nothing_is_left(
    nas: FaultyFilesystem, autojump_clock: MockClock, when: str
) -> None:
    # Before another directory, and after the last one.
    nas.interfere("mkdir", when, lambda: nas.unmount("/nas"), when="after")
    nas.memory.add_directory("/nas/b")
    with pytest.raises(MkdirError) as caught:
        paths = ["/nas/a/x", "/nas/b/y"]
        policy = Policy(filesystem=nas)
        await makedirs_many(paths, on_mount="/nas", concurrency=1, policy=policy)
    assert caught.value.root_cause is RootCause.DISCONNECTED
    await wait_settled()
    assert nas.memory.paths() == ["/nas", "/nas/sub", "/srv"]
    # Beneath what was its mount point nothing is even tried.
    made = [record.path for record in nas.operations if record.operation == "mkdir"]
    assert made[-1] == when


# What it costs where nothing is asked for


async def test_without_it_no_more_is_asked_of_the_filesystem(
    disk: FaultyFilesystem, autojump_clock: MockClock
) -> None:
    paths = [f"/srv/{number % 5}/{number}" for number in range(100)]
    await makedirs_many(paths, policy=Policy(filesystem=disk))
    asked = [record.operation for record in disk.operations]
    # Each is made; and what others are made in is looked at, so that it is known again.
    assert {name: asked.count(name) for name in set(asked)} == {"mkdir": 105, "lstat": 5}
