"""What ``on_mount`` promises: nothing is made on another mount than the one that is named."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from filesystems.mounts import MountPoint, mount_point
from filesystems.needs import needs_root

from trio_mkdir import (
    MkdirError,
    Mount,
    NotMounted,
    Policy,
    RootCause,
    StepTimeout,
    makedirs,
    mkdir,
    open_rollback_nursery,
    wait_settled,
)
from trio_mkdir._paths import AnyPath
from trio_mkdir.testing import FaultyFilesystem, assert_nothing_leaked
from trio_mkdir.testing._script import When

NAS = {"type": "nfs4", "source": "nas:/export"}


@pytest.fixture
def filesystem() -> FaultyFilesystem:
    """A NAS at ``/mnt/nas`` and another one in it, at ``/mnt/nas/deep/er``."""
    filesystem = FaultyFilesystem()
    filesystem.memory.add_directory("/mnt/nas")
    filesystem.memory.add_directory("/mnt/nasty")
    mount(filesystem, "/mnt/nas")
    filesystem.memory.add_directory("/mnt/nas/deep/er")
    mount(filesystem, "/mnt/nas/deep/er")
    return filesystem


def mount(filesystem: FaultyFilesystem, point: str, kind: str = "nfs4") -> Mount:
    return filesystem.memory.mount_at(point, type=kind, source="nas:/export")


def within(filesystem: FaultyFilesystem, **options: Any) -> Policy:
    return Policy(filesystem=filesystem, **options)


def asked(filesystem: FaultyFilesystem) -> list[str]:
    return [each.operation for each in filesystem.operations]


@pytest.mark.parametrize(
    ("path", "point"),
    [
        ("/mnt/nas/a/b", "/mnt/nas"),
        ("/mnt/nas/a/b", b"/mnt/nas"),
        (b"/mnt/nas/a/b", "/mnt/nas"),
        ("/mnt/nas/a/b", Path("/mnt/nas")),
        ("/mnt/nas/a/b", "/mnt/nas/"),
        ("/mnt/nas/a/b", "//mnt///nas//"),
        ("/mnt/nas/a/b", "/mnt/nas/deep/.."),
        ("/mnt/nas/a/b", "/mnt/./nas/."),
        ("/mnt/../mnt/nas/a/b", "/mnt/nas"),
        ("/mnt/nas/deep/er/a", "/mnt/nas/deep/er"),
        ("/mnt/a/b", "/"),
        ("/mnt/a/b", "/mnt/.."),
    ],
    ids=repr,
)
async def test_on_the_mount_that_is_named_it_is_made(
    filesystem: FaultyFilesystem, path: AnyPath, point: Any
) -> None:
    report = await makedirs(path, on_mount=point, policy=within(filesystem))
    assert report.created[-1] == path


@pytest.mark.parametrize(
    ("path", "point", "there"),
    [
        ("/mnt/a", "/mnt/nas", "/"),
        ("/mnt/nasty/a", "/mnt/nas", "/"),
        ("/mnt/nas/a", "/mnt", "/mnt/nas"),
        ("/mnt/nas/a", "/", "/mnt/nas"),
        ("/mnt/nas/a", "/mnt/nas/deep", "/mnt/nas"),
        ("/mnt/nas/deep/er/a", "/mnt/nas", "/mnt/nas/deep/er"),
        ("/mnt/nas/../a", "/mnt/nas", "/"),
        (b"/mnt/a", b"/mnt/nas", "/"),
        ("/mnt/nasty", "/mnt/nasty", "/"),
    ],
    ids=repr,
)
async def test_elsewhere_nothing_is_tried(
    filesystem: FaultyFilesystem, path: AnyPath, point: AnyPath, there: str
) -> None:
    with pytest.raises(NotMounted) as caught:
        await makedirs(path, exist_ok=True, on_mount=point, policy=within(filesystem))
    error = caught.value
    assert isinstance(error, MkdirError)
    assert (error.errno, error.root_cause) == (errno.ENODEV, RootCause.DISCONNECTED)
    assert error.filename == path
    assert str(error) == f"[Errno 19] not on the mount of on_mount={point!r}: {path!r}"
    assert error.mount is not None
    assert error.mount.mount_point == there
    assert error.__notes__ == [f"the path is on the mount {error.mount}"]
    assert error.report.path == path
    assert asked(filesystem) == []


async def test_it_is_a_checkpoint_also_when_nothing_is_tried(filesystem: FaultyFilesystem) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await mkdir("/mnt/a", on_mount="/mnt/nas", policy=within(filesystem))
    assert scope.cancelled_caught


async def test_mkdir_and_those_of_a_nursery_take_it_too(filesystem: FaultyFilesystem) -> None:
    policy = within(filesystem)
    await mkdir("/mnt/nas/a", on_mount="/mnt/nas", policy=policy)
    with pytest.raises(NotMounted):
        await mkdir("/mnt/a", on_mount="/mnt/nas", policy=policy)
    async with open_rollback_nursery(policy=policy) as nursery:
        await nursery.makedirs("/mnt/nas/b/c", on_mount="/mnt/nas")
        await nursery.mkdir("/mnt/nas/d", on_mount="/mnt/nas")
        for make in (nursery.makedirs, nursery.mkdir):
            with pytest.raises(NotMounted):
                await make("/mnt/b", on_mount="/mnt/nas")
    assert not {"/mnt/a", "/mnt/b"} & set(filesystem.memory.paths())


@pytest.mark.parametrize("kind", ["durable", "atomic", "exact_mode"])
async def test_it_needs_no_filesystem_that_opens_directories(kind: str) -> None:
    class Plain:
        """Without ``open``."""

        turn = None

        def __init__(self, below: FaultyFilesystem) -> None:
            self._below = below

        def __getattr__(self, name: str) -> Any:
            if name in {"open", "rename"}:
                raise AttributeError(name)
            return getattr(self._below, name)

    below = FaultyFilesystem()
    policy = Policy(filesystem=Plain(below))
    await mkdir("/a", on_mount="/", policy=policy)
    with pytest.raises(NotImplementedError):
        await mkdir("/b", on_mount="/", policy=policy, **{kind: True})  # type: ignore[arg-type]
    assert below.memory.paths() == ["/a"]


# Once more at the end


@pytest.mark.parametrize("operation", ["mkdir", "lstat"])
async def test_a_mount_that_vanishes_meanwhile_takes_the_call_along(
    filesystem: FaultyFilesystem, operation: str
) -> None:
    # Nothing has failed: the disk beneath has a directory of this name as well.
    memory = filesystem.memory
    memory.unmount("/mnt/nas")
    memory.add_directory("/mnt/nas/a")
    mount(filesystem, "/mnt/nas")
    memory.add_directory("/mnt/nas/a")
    before = memory.paths()
    when: When = "before" if operation == "mkdir" else "after"
    path = "/mnt/nas/a/b/c" if operation == "mkdir" else "/mnt/nas/a/b"
    filesystem.interfere(operation, path, partial(memory.unmount, "/mnt/nas"), when=when)
    async with assert_nothing_leaked():
        with pytest.raises(NotMounted) as caught:
            await makedirs(
                "/mnt/nas/a/b/c", on_mount="/mnt/nas", policy=within(filesystem, retries={})
            )
    (note, *_) = caught.value.__notes__
    assert note.startswith("the call began on the mount /mnt/nas (nfs4 from nas:/export, rw)")
    assert note.endswith("and the path is now on / (memory from trio_mkdir.testing, rw)")
    assert memory.paths() == before


async def test_another_mount_at_its_place_is_not_it(filesystem: FaultyFilesystem) -> None:
    filesystem.interfere(
        "mkdir", "/mnt/nas/a", partial(mount, filesystem, "/mnt/nas"), when="after"
    )
    with pytest.raises(NotMounted, match="not on the mount of on_mount='/mnt/nas'"):
        await mkdir("/mnt/nas/a", on_mount="/mnt/nas", policy=within(filesystem))


async def test_what_was_answered_where_it_has_vanished_is_told(
    filesystem: FaultyFilesystem,
) -> None:
    filesystem.fail("mkdir", "/mnt/nas/a", errno.EIO)
    memory = filesystem.memory
    filesystem.interfere("mkdir", "/mnt/nas/a", partial(memory.unmount, "/mnt/nas"))
    with pytest.raises(NotMounted) as caught:
        await mkdir("/mnt/nas/a", on_mount="/mnt/nas", policy=within(filesystem))
    assert caught.value.errno == errno.ENODEV
    assert caught.value.__notes__[1] == "'/mnt/nas/a' was answered EIO"


async def test_silence_where_it_has_vanished_is_no_answer(
    filesystem: FaultyFilesystem,
) -> None:
    hold = filesystem.hold("mkdir", "/mnt/nas/a")
    memory = filesystem.memory
    filesystem.interfere("mkdir", "/mnt/nas/a", partial(memory.unmount, "/mnt/nas"))
    policy = within(filesystem, step_timeout=0.05, rollback_timeout=0)
    with pytest.raises(StepTimeout) as caught:
        await mkdir("/mnt/nas/a", on_mount="/mnt/nas", policy=policy)
    assert caught.value.root_cause is RootCause.DISCONNECTED
    hold.release()
    await wait_settled()


# Automounts


@pytest.mark.parametrize("at", ["/mnt/auto", "/mnt/auto/host"])
async def test_what_our_own_first_access_mounts_is_the_mount(at: str) -> None:
    filesystem = FaultyFilesystem()
    memory = filesystem.memory
    memory.add_directory("/mnt/auto")
    mount(filesystem, "/mnt/auto", "autofs")
    memory.add_directory("/mnt/auto/host")

    def come() -> None:
        mount(filesystem, at)
        memory.add_directory("/mnt/auto/host")

    filesystem.interfere("mkdir", "/mnt/auto/host/a", come)
    await makedirs("/mnt/auto/host/a", on_mount=at, policy=within(filesystem))
    assert "/mnt/auto/host/a" in memory.paths()


async def test_what_an_automount_does_not_mount_is_not_the_mount() -> None:
    filesystem = FaultyFilesystem()
    filesystem.memory.add_directory("/mnt/auto")
    mount(filesystem, "/mnt/auto", "autofs")
    with pytest.raises(NotMounted, match="'/mnt/auto/host'"):
        await makedirs("/mnt/auto/host/a", on_mount="/mnt/auto/host", policy=within(filesystem))
    assert filesystem.memory.paths() == ["/mnt", "/mnt/auto"]
    with pytest.raises(NotMounted):
        await makedirs("/mnt/auto/a", on_mount="/mnt/automobile", policy=within(filesystem))


# Arguments


@pytest.mark.parametrize("point", ["", b"", "a\0b", 3, ["/"]], ids=repr)
async def test_what_is_no_path_is_refused(point: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="on_mount"):
        await makedirs("/a", on_mount=point)


# The real table


@attrs.frozen
class Real:
    """A tmpfs at ``point``, which is a directory of the disk while it is away."""

    point: MountPoint

    def come(self) -> None:
        self.point.mount("tmpfs", options="mode=755")


@pytest.fixture
def real(tmp_path: Path) -> Any:
    needs_root()
    with mount_point(tmp_path / "mnt") as point:
        yield Real(point)


async def test_a_real_mount_comes_and_goes(
    real: Real, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = real.point.path
    monkeypatch.chdir(path.parent)
    ways: list[Callable[[], Any]] = [
        lambda: makedirs(path / "a/b", exist_ok=True, on_mount=path),
        lambda: makedirs("mnt/a/b", exist_ok=True, on_mount="mnt/"),
        lambda: makedirs("a/b", exist_ok=True, beneath="mnt", on_mount=os.fsencode(path)),
        lambda: makedirs("mnt/a/b", exist_ok=True, beneath=path.parent, on_mount="./x/../mnt"),
    ]
    for way in ways:
        with pytest.raises(NotMounted):
            await way()
    assert real.point.beneath() == []
    real.come()
    for way in ways:
        await way()
    assert sorted(str(each.relative_to(path)) for each in path.rglob("*")) == ["a", "a/b"]
    with pytest.raises(NotMounted):
        await makedirs(tmp_path / "c", on_mount=path)
    real.point.vanish()
    for way in ways:
        with pytest.raises(NotMounted):
            await way()
    assert real.point.beneath() == []
    assert os.listdir(tmp_path) == ["mnt"]


async def test_a_real_mount_that_goes_before_the_last_look(real: Real) -> None:
    real.come()
    filesystem = FaultyFilesystem.wrap()
    path = real.point.path / "a"
    filesystem.interfere("mkdir", str(path), real.point.vanish)
    with pytest.raises(NotMounted) as caught:
        await mkdir(path, on_mount=real.point.path, policy=within(filesystem))
    assert caught.value.report.removed == (str(path),)
    assert real.point.beneath() == []
