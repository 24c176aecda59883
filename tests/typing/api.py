"""What type checkers say about the public names. Checked by mypy and pyright, never run."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from random import Random

import trio
from typing_extensions import assert_type

import trio_mkdir
from trio_mkdir import (
    BackoffPolicy,
    Budget,
    DebtTaken,
    EscapeError,
    Event,
    Kept,
    MkdirError,
    Mount,
    MountStalled,
    MountStatistics,
    PendingRollback,
    Policy,
    Report,
    RetryScheduled,
    RollbackError,
    RollbackNursery,
    RootCause,
    StepAnswered,
    StepTimeout,
    Unsynced,
)


async def check_makedirs(path_like: os.PathLike[str], path_like_bytes: os.PathLike[bytes]) -> None:
    assert_type(await trio_mkdir.makedirs("a/b"), Report)
    await trio_mkdir.makedirs(b"a/b")
    await trio_mkdir.makedirs(Path("a/b"))
    await trio_mkdir.makedirs(trio.Path("a/b"))
    await trio_mkdir.makedirs(path_like)
    await trio_mkdir.makedirs(path_like_bytes)
    # As os.makedirs: mode and exist_ok by place or by name, all else by name only.
    await trio_mkdir.makedirs("a/b", 0o700, True)
    await trio_mkdir.makedirs("a/b", mode=0o700, exist_ok=True, parent_mode=0o755)
    await trio_mkdir.makedirs("a/b", parent_mode=None, policy=Policy())
    await trio_mkdir.makedirs("a/b", beneath="root")
    await trio_mkdir.makedirs("a/b", beneath=b"root")
    await trio_mkdir.makedirs("a/b", beneath=Path("root"))
    await trio_mkdir.makedirs("a/b", beneath=trio.Path("root"))
    await trio_mkdir.makedirs("a/b", beneath=3)
    await trio_mkdir.makedirs("a/b", beneath=None)
    await trio_mkdir.makedirs("a/b", exact_mode=True, owner="me", group=5, like=Path("template"))

    await trio_mkdir.makedirs(path="a/b")  # type: ignore[call-arg]
    await trio_mkdir.makedirs("a/b", 0o700, True, 0o755)  # type: ignore[call-arg]
    await trio_mkdir.makedirs(3)  # type: ignore[arg-type]
    await trio_mkdir.makedirs("a/b", policy=None)  # type: ignore[arg-type]
    await trio_mkdir.makedirs("a/b", beneath=1.5)  # type: ignore[arg-type]
    await trio_mkdir.makedirs("a/b", durable=True, on_mount=Path("/"))
    await trio_mkdir.makedirs("a/b", on_mount=3)  # type: ignore[arg-type]


async def check_mkdir() -> None:
    assert_type(await trio_mkdir.mkdir("a"), Report)
    await trio_mkdir.mkdir(b"a", 0o700)
    await trio_mkdir.mkdir(Path("a"), mode=0o700, exist_ok=True, policy=Policy(), beneath=3)

    await trio_mkdir.mkdir("a", 0o777, True)  # type: ignore[call-arg]


async def check_makedirs_many(names: AsyncIterator[str]) -> None:
    assert_type(await trio_mkdir.makedirs_many(["a/b", b"c", Path("d")]), Report)
    await trio_mkdir.makedirs_many(names, 0o700, exist_ok=False, parent_mode=0o755)
    await trio_mkdir.makedirs_many(iter(["a"]), concurrency=4, progress=print, policy=Policy())

    await trio_mkdir.makedirs_many(["a"], beneath=3, durable=True, owner="www", on_mount=b"/mnt")
    await trio_mkdir.makedirs_many(["a"], 0o700, True)  # type: ignore[call-arg]
    await trio_mkdir.makedirs_many(3)  # type: ignore[arg-type]


async def check_in_a_nursery() -> None:
    # Nursery.start_soon checks the arguments it passes on, so the signature has to be exact.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio_mkdir.makedirs, "a/b")
        nursery.start_soon(trio_mkdir.makedirs, "a/b", 0o700, True)
        nursery.start_soon(trio_mkdir.mkdir, Path("a"))


async def check_rollback_nursery(policy: Policy) -> None:
    async with trio_mkdir.open_rollback_nursery(policy=policy) as nursery:
        assert_type(nursery, RollbackNursery)
        assert_type(await nursery.makedirs("a/b", 0o700, True, parent_mode=0o755), Report)
        assert_type(await nursery.mkdir(Path("a"), exist_ok=True), Report)
        await nursery.makedirs("a/b", beneath="root")
        await nursery.mkdir("a", beneath=3)
        await nursery.mkdir("a", durable=True, on_mount=b"/")
        assert_type(await nursery.chmod("a", 0o755, beneath="root"), Report)
        assert_type(await nursery.chown(b"a", "me", group=5), Report)
        assert_type(await nursery.copy_metadata(Path("a"), "b"), Report)
        await nursery.chown("a", 1.5)  # type: ignore[arg-type]
        assert_type(await nursery.makedirs_many(["a/d", b"a/e"], exist_ok=False), Report)
        await nursery.makedirs_many(["f"], beneath=Path("/srv"), exact_mode=True, like="/srv")
        nursery.start_soon(nursery.makedirs, "a/c")
        nursery.push_undo(print, "a synchronous one")
        nursery.push_undo(trio_mkdir.wait_settled)
        assert_type(nursery.cancel_scope, trio.CancelScope)
    assert_type(nursery.report, Report)

    trio_mkdir.open_rollback_nursery(policy)  # type: ignore[call-arg]


def check_report(report: Report) -> None:
    assert_type(report.path, str | bytes)
    assert_type(report.created, tuple[str | bytes, ...])
    assert_type(report.relied_on, tuple[str | bytes, ...])
    assert_type(report.retries, tuple[RetryScheduled, ...])
    assert_type(report.elapsed, float)
    assert_type(report.steps, int)
    assert_type(report.removed, tuple[str | bytes, ...])
    assert_type(report.kept, tuple[Kept, ...])
    assert_type(report.pending, tuple[PendingRollback, ...])
    assert_type(report.unsynced, tuple[Unsynced, ...])

    report.steps = 2  # type: ignore[misc]


def check_records_in_a_report(retry: RetryScheduled, kept: Kept) -> None:
    assert_type(retry.cause, RootCause)
    assert_type(retry.errno, int)
    assert_type(retry.path, str | bytes)
    assert_type(retry.delay, float)

    assert_type(kept.path, str | bytes)
    assert_type(kept.why, str)


async def reclaim(path: str | bytes, cause: RootCause, space: os.statvfs_result) -> bool:
    raise NotImplementedError


def observe(event: Event) -> None:
    assert_type(event.call, int)
    assert_type(event.time, float)
    assert_type(event.path, str | bytes)
    if isinstance(event, StepAnswered):
        assert_type(event.errno, int | None)
    elif isinstance(event, DebtTaken):
        assert_type(event.debt, PendingRollback)


def check_policies(random: Random) -> None:
    backoff = BackoffPolicy()
    BackoffPolicy(
        initial=0.01,
        multiplier=5.0,
        maximum=0.25,
        max_retries=3,
        jitter="full",
        max_elapsed=math.inf,
    )
    assert_type(backoff.initial, float)
    assert_type(backoff.max_retries, float)  # math.inf is one, too
    assert_type(backoff.delays(random), Iterator[float])
    assert_type(BackoffPolicy.INTRANET, BackoffPolicy)
    assert_type(BackoffPolicy.CROSS_AZ, BackoffPolicy)

    BackoffPolicy(jitter="some")  # type: ignore[arg-type]
    assert_type(BackoffPolicy.constant(0.1), BackoffPolicy)
    assert_type(BackoffPolicy.exponential(0.1, 1.0), BackoffPolicy)

    policy = Policy(
        step_timeout=math.inf,
        rollback_timeout=2,
        retries={RootCause.BUSY: backoff},
        reclaim=reclaim,
        budget=Budget(capacity=10, per_second=1),
        observers=[print, observe],
        workers=10,
        stall_after=3,
    )
    Policy(reclaim=None, budget=None)
    assert_type(policy.step_timeout, float)
    assert_type(policy.rollback_timeout, float)
    assert_type(policy.retries, Mapping[RootCause, BackoffPolicy])

    Policy(retries={errno.EBUSY: backoff})
    policy.step_timeout = 3.0  # type: ignore[misc]


async def check_errors() -> None:
    try:
        await trio_mkdir.makedirs("a/b")
    except MkdirError as error:
        assert_type(error.root_cause, RootCause)
        assert_type(error.report, Report)
        assert_type(error.mount, Mount | None)
        assert_type(error.operation, str)
        as_oserror: OSError = error
        assert_type(as_oserror.errno, int | None)

    try:
        await trio_mkdir.makedirs("a/b")
    except (StepTimeout, MountStalled) as error:
        assert_type(error.statistics, MountStatistics)

    timeout: type[TimeoutError] = StepTimeout
    stalled: type[OSError] = MountStalled
    escaped: type[OSError] = EscapeError
    undone: type[Exception] = RollbackError
    _ = timeout, stalled, escaped, undone


def check_mounts() -> None:
    assert_type(trio_mkdir.mounts(), tuple[MountStatistics, ...])
    for mount in trio_mkdir.mounts():
        assert_type(mount.mount, Mount)
        assert_type(mount.time, float)
        assert_type(mount.busy, int)
        assert_type(mount.stuck, int)
        assert_type(mount.stuck_since, float | None)
        assert_type(mount.stuck_seconds, float | None)
        assert_type(mount.stuck_operation, str | None)
        assert_type(mount.stuck_path, str | bytes | None)
        assert_type(mount.debts, int)
        assert_type(mount.last_answer, float | None)
        assert_type(mount.last_errno, int | None)

        mount.stuck = 0  # type: ignore[misc]


async def check_pending_rollbacks() -> None:
    assert_type(trio_mkdir.pending_rollbacks(), tuple[PendingRollback, ...])
    await trio_mkdir.wait_settled()
