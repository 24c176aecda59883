"""At no moment has anybody more access than in the end, and at none does a failure leave anything.

Every state that there is between two system calls is looked at, and a process that tries to get in
all the time finds none.
"""

from __future__ import annotations

import errno
import math
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import attrs
import pytest
from acls import Whole, setfacl
from filesystems.processes import AnotherUser
from trio.testing import MockClock

from trio_mkdir import Event, Kept, Policy, RollbackError, makedirs, open_rollback_nursery
from trio_mkdir._acl import ACCESS, packed
from trio_mkdir.testing import (
    FaultyFilesystem,
    MemoryFilesystem,
    Outcome,
    assert_nothing_leaked,
    sweep_cancellations,
    sweep_faults,
)

pytest_plugins = ["ownership_fixtures"]

ALICE = 1001
STAFF = 1002


Steps: TypeAlias = "Callable[[Site], Awaitable[None]]"

# On real filesystems


@attrs.frozen
class Access:
    """Who may do what with one directory."""

    owner: tuple[int, int]
    group: tuple[int, int]
    others: int
    named: frozenset[tuple[int, int, int]]
    """Those of an ACL beside these, with what the mask lets them have."""

    @classmethod
    def to(cls, path: Path) -> Access:
        whole = Whole.of(path)
        mode, acl = whole.mode, whole.attributes.get(ACCESS, b"")
        entries = [(acl[i], acl[i + 2], int.from_bytes(acl[i + 4 : i + 8], "little"))
                   for i in range(4, len(acl), 8)]  # fmt: skip
        mask = mode >> 3 & 7
        group = next((permissions & mask for tag, permissions, _ in entries if tag == 4), mask)
        named = {(tag, number, bit)
                 for tag, permissions, number in entries if tag in {2, 8}
                 for bit in (1, 2, 4) if permissions & mask & bit}  # fmt: skip
        return cls((whole.uid, mode >> 6 & 7), (whole.gid, group), mode & 7, frozenset(named))

    def more_than(self, final: Access) -> bool:
        """Whether anybody but root, who makes it, may do something here that he may not there."""
        (owner, his), (group, its) = self.owner, self.group
        allowed = final.others
        if owner == final.owner[0]:
            allowed = final.owner[1]
        if owner != 0 and his & ~allowed:
            return True
        allowed = final.group[1] if group == final.group[0] else final.others
        return bool(its & ~allowed or self.others & ~final.others or self.named - final.named)


@contextmanager
def watched(place: Path) -> Iterator[tuple[FaultyFilesystem, list[tuple[Path, Access]]]]:
    """A filesystem that looks at all that was made before and after each of its operations."""
    seen: list[tuple[Path, Access]] = []
    filesystem = FaultyFilesystem.wrap()

    def look() -> None:
        for above, names, _ in os.walk(place):
            seen.extend((path, Access.to(path)) for path in (Path(above, name) for name in names))

    for when in ("before", "after"):
        filesystem.interfere("*", "*", look, when=when, times=math.inf)
    yield filesystem, seen


@pytest.mark.parametrize("options", [
    {"exact_mode": True, "mode": 0o2770, "group": STAFF},
    {"exact_mode": True, "mode": 0o7777},
    {"exact_mode": True, "mode": 0, "owner": ALICE},
    {"owner": ALICE, "mode": 0o750},
    {"owner": ALICE, "group": STAFF},
    {"like": True},
    {"like": True, "exact_mode": True, "mode": 0o700, "owner": ALICE},
])  # fmt: skip
@pytest.mark.parametrize("inherits", [False, True])
async def test_no_state_between_two_system_calls_is_more_open_than_the_last(
    place: Path, set_umask: Callable[[int], None], options: dict[str, object], inherits: bool
) -> None:
    set_umask(0)  # so that nothing is closed by chance
    inside, template = place / "inside", place / "template"
    inside.mkdir()
    if inherits:
        os.chown(inside, 0, STAFF)
        inside.chmod(0o2777)
        setfacl(inside, "u::rwx", "u:2000:rwx", "g::rwx", "o::rwx", default=True)
    if "like" in options:
        template.mkdir()
        os.chown(template, ALICE, STAFF)
        setfacl(template, "u:3000:rwx", "g:4000:rx", "g::rx", "o::x")
        options = {**options, "like": template}
    with watched(inside) as (filesystem, seen):
        policy = Policy(filesystem=filesystem)
        await makedirs(inside / "a/b/c", policy=policy, **options)  # type: ignore[arg-type]
    paths = [inside / path for path in ("a", "a/b", "a/b/c")]
    final = {path: Access.to(path) for path in paths}
    assert {path for path, _ in seen} == {*paths}
    for path, access in seen:
        assert not access.more_than(final[path])
    # The one above opens when all that is in it is as it is to be.
    for path in paths[:-1]:
        if final[path].others & 1:
            opened = next(
                n for n, (at, access) in enumerate(seen) if (at, access.others & 1) == (path, 1)
            )
            below = paths[paths.index(path) + 1 :]
            later = {access for at, access in seen[opened:] if at in below}
            assert later <= {*final.values()}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("turned", [False, True])
async def test_no_state_of_a_change_is_more_open_than_what_was_and_what_will_be(
    place: Path, turned: bool, fails: bool
) -> None:
    inside = place / "inside"
    one, other = inside / "one", place / "other"
    for path in (one, other):
        path.mkdir(parents=True)
    os.chown(one, ALICE, STAFF)
    setfacl(one, "u:3000:rwx", "g:4000:rx", "g::rx", "o::-")
    os.chown(other, ALICE + 1, STAFF + 1)
    other.chmod(0o707)
    if turned:
        other.rename(place / "swap")
        one.rename(other)
        (place / "swap").rename(one)
    before, after = Access.to(one), Access.to(other)
    with watched(inside) as (filesystem, seen):
        async with open_rollback_nursery(policy=Policy(filesystem=filesystem)) as nursery:
            await nursery.copy_metadata(other, one)
            assert Access.to(one) == after
            if fails:
                nursery.cancel_scope.cancel()
    assert Access.to(one) == (before if fails else after)
    assert {path for path, _ in seen} == {one}
    assert len({access for _, access in seen}) > 2
    for _, access in seen:
        assert not (access.more_than(before) and access.more_than(after))


INTRUDER = """

print("ready", flush=True)
entered = seen = 0
os.set_blocking(0, False)
while True:
    for path in (sys.argv[1] + "/a", sys.argv[1] + "/a/b"):
        try:
            os.stat(path)
            seen += 1
            os.listdir(path)
            entered += 1
        except OSError:
            pass
    try:
        if os.read(0, 1) == b"":
            break
    except BlockingIOError:
        pass
print(entered, seen)
"""


async def test_a_process_that_tries_all_the_time_never_gets_in(
    place: Path, as_user: AnotherUser, set_umask: Callable[[int], None]
) -> None:
    set_umask(0)
    with intruder(as_user, place) as process:
        for _ in range(100):
            await makedirs(
                place / "a/b",
                0o770,
                exact_mode=True,
                parent_mode=0o711,
                owner=ALICE,
                group=STAFF,
            )
            os.rmdir(place / "a/b")
            os.rmdir(place / "a")
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        entered, seen = map(int, process.stdout.readline().split())
    assert seen > 0
    assert entered == 0


@contextmanager
def intruder(user: AnotherUser, place: Path) -> Iterator[subprocess.Popen[str]]:
    prelude = f"import os, sys; os.setgroups([]); os.setgid({user.gid}); os.setuid({user.uid})"
    process = subprocess.Popen(  # noqa: S603 - the test's own
        [sys.executable, "-I", "-c", prelude + INTRUDER, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


# Cancelled at every point, disturbed at every operation


@attrs.frozen
class Site:
    filesystem: FaultyFilesystem
    before: dict[str, object]
    told: list[Event] = attrs.field(factory=list[Event])

    @property
    def policy(self) -> Policy:
        return Policy(filesystem=self.filesystem, observers=[self.told.append])


def state(memory: MemoryFilesystem) -> dict[str, object]:
    """All there is."""
    found: dict[str, object] = {}
    for path in memory.paths():
        opened = memory.open(path)
        status = opened.stat()
        attributes = {name: opened.getxattr(name) for name in opened.listxattr()}
        found[path] = oct(status.st_mode), status.st_uid, status.st_gid, attributes
    return found


ACL = packed([(1, 5, 0), (2, 7, 9), (4, 5, 0), (16, 5, 0), (32, 5, 0)])


def new_site() -> Site:
    filesystem = FaultyFilesystem(threads=False)
    memory = filesystem.memory
    memory.add_user("alice", ALICE)
    memory.add_group("staff", STAFF)
    for path, mode in (("/srv", 0o2755), ("/srv/old", 0o750), ("/template", 0o755)):
        memory.add_directory(path, mode)
    template = memory.open("/template")
    template.chown(5, 6)
    template.setxattr("user.mine", b"x")
    template.setxattr(ACCESS, ACL)
    template.chmod(0o555)
    memory.open("/srv/old").setxattr("user.mine", b"old")
    return Site(filesystem, state(memory))


async def make(site: Site) -> None:
    await makedirs(
        "/srv/a/b", 0o3770, exact_mode=True, owner="alice", group="staff", policy=site.policy
    )


async def make_like(site: Site) -> None:
    await makedirs("/srv/a/b", like="/template", policy=site.policy)


async def change(site: Site) -> None:
    async with open_rollback_nursery(policy=site.policy) as nursery:
        await nursery.makedirs("/srv/old/a/b", like="/template")
        await nursery.chmod("/srv/old", 0o500)
        await nursery.chown("/srv/old", "alice", "staff")
        await nursery.copy_metadata("/template", "/srv/old")
        await nursery.mkdir("/srv/c", 0o1777, exact_mode=True)


def filesystem_of(site: Site) -> FaultyFilesystem:
    return site.filesystem


def done(fn: Steps) -> dict[str, object]:
    """What it leaves if nothing comes in between."""
    made: dict[Steps, dict[str, object]] = {
        make: {
            "/srv/a": ("0o42755", ALICE, STAFF, {}),
            "/srv/a/b": ("0o43770", ALICE, STAFF, {}),
        },
        make_like: {
            path: ("0o42555", 5, 6, {"user.mine": b"x", ACCESS: ACL})
            for path in ("/srv/a", "/srv/a/b")
        },
        change: {
            "/srv/old": ("0o40555", 5, 6, {"user.mine": b"x", ACCESS: ACL}),
            "/srv/old/a": ("0o42555", 5, 6, {"user.mine": b"x", ACCESS: ACL}),
            "/srv/old/a/b": ("0o42555", 5, 6, {"user.mine": b"x", ACCESS: ACL}),
            "/srv/c": ("0o43777", 0, 0, {}),
        },
    }
    return made[fn]


CHANGES = {"rmdir", "open", "fstat", "chmod", "chown", "setxattr", "getxattr", "listxattr"}


def check(fn: Steps) -> Callable[[Outcome[Site]], None]:
    def whole_or_as_before(outcome: Outcome[Site]) -> None:
        site = outcome.state
        wanted = {**site.before, **(done(fn) if outcome.completed else {})}
        assert state(site.filesystem.memory) == wanted

    return whole_or_as_before


@pytest.mark.parametrize("fn", [make, make_like, change])
async def test_cancelled_at_any_point_it_is_whole_or_as_before(
    fn: Steps, autojump_clock: MockClock
) -> None:
    async with assert_nothing_leaked():
        summary = await sweep_cancellations(fn, setup=new_site, check=check(fn))
    assert summary.completed
    assert summary.cancelled > 10


@pytest.mark.parametrize("lost_reply", [False, True])
@pytest.mark.parametrize("fn", [make, make_like, change])
async def test_a_fault_that_passes_at_any_operation_changes_nothing(
    fn: Steps, lost_reply: bool, autojump_clock: MockClock
) -> None:
    operations = {*CHANGES, "lstat"} - ({"open"} if lost_reply else {"nothing"})
    summary = await sweep_faults(
        fn,
        filesystem_of,
        errno=errno.EINTR,
        setup=new_site,
        check=check(fn),
        operations=operations,
        lost_reply=lost_reply,
        faults=1,
        expected=(),
    )
    assert summary.failed == 0
    assert summary.completed > 10


@pytest.mark.parametrize("fn", [make, make_like, change])
async def test_a_fault_that_does_not_pass_leaves_it_as_before(
    fn: Steps, autojump_clock: MockClock
) -> None:
    summary = await sweep_faults(
        fn,
        filesystem_of,
        errno=errno.EIO,
        setup=new_site,
        check=check(fn),
        operations=CHANGES,
        faults=1,
        expected=(OSError,),
    )
    assert summary.failed > 10


@pytest.mark.parametrize("fn", [make, make_like, change])
async def test_what_a_second_fault_leaves_is_told(fn: Steps, autojump_clock: MockClock) -> None:
    def check_told(outcome: Outcome[Site]) -> None:
        site = outcome.state
        wanted = {**site.before, **(done(fn) if outcome.completed else {})}
        found = state(site.filesystem.memory)
        kept = [str(event.path) for event in site.told if isinstance(event, Kept)]
        for path in {*wanted, *found}:
            if wanted.get(path) != found.get(path):
                assert any(f"{left}/".startswith(f"{path}/") for left in kept)

    summary = await sweep_faults(
        fn,
        filesystem_of,
        errno=errno.EIO,
        setup=new_site,
        check=check_told,
        operations=CHANGES,
        expected=(OSError, RollbackError),
    )
    assert summary.failed > 10
