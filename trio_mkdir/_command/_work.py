"""The work, in the child process: one operand after the other, and what is said of each."""

# Imported is what the path taken needs, when it needs it: start-up is most of the command's time.
# ruff: noqa: PLC0415

from __future__ import annotations

import contextlib
import errno
import functools
import os
import signal
import sys

from ._disk import Corrections, correct_mode, correct_mode_beneath
from ._front import SIGNALLED
from ._listed import names, plain, shown
from ._quoting import quote, quote_for_shell
from ._sentences import SILENCE, CannotSetMode, UnknownAccount, sentence
from ._voice import FAILED

if sys.version_info < (3, 11):  # pragma: no cover - trio depends on it there
    from exceptiongroup import BaseExceptionGroup

TYPE_CHECKING = False  # type checkers know the name; importing typing for it would cost time
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    import trio

    from trio_mkdir import Policy, Report, RollbackNursery, RootCause

    from ._front import Front
    from ._modes import Plan
    from ._options import Options
    from ._voice import Voice

TIMED_OUT = 124  # as timeout(1)
SLICE = 0.1  # seconds after which a thread that sets modes lets us have a say
_FATES = {
    "mkdir": "may still appear",
    "rename": "may still appear",
    "fsync": "is still being written to the disk",
}


def work(options: Options, plan: Plan, voice: Voice, front: Front) -> None:
    """Make the operands, say what became of them, and stay for what is still owed."""
    import logging

    import trio

    # What the library would warn of is said here, in the command's own form.
    logging.getLogger("trio_mkdir").addHandler(logging.NullHandler())
    trio.run(_run, options, plan, voice, front)


async def _run(options: Options, plan: Plan, voice: Voice, front: Front) -> None:
    import trio

    from trio_mkdir import pending_rollbacks, wait_settled

    maker = _Maker(options, plan, voice)
    signals: list[int] = []
    with trio.move_on_after(options.timeout) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_heed, front, scope, signals)
            source = options.source
            if options.sweep is not None:
                await maker.sweep(options.sweep)
            else:
                await maker.make_all(options.operands if source is None else [source])
            nursery.cancel_scope.cancel()
    status = maker.status
    if signals:
        status = SIGNALLED + signals[0]
        maker.tell_unfinished(f"interrupted by {signal.Signals(signals[0]).name}")
    elif scope.cancelled_caught and not maker.done:
        status = TIMED_OUT
        maker.tell_unfinished(f"not done within {options.timeout:g} s")
    pending = pending_rollbacks()
    for debt in pending:
        fate = _FATES.get(debt.operation, "still stands")
        voice.complain(
            f"{quote(os.fsdecode(debt.path))} {fate}: {quote(debt.mount_point)} does not answer; "
            f"process {os.getpid()} stays to undo it"
        )
    front.answer(voice.finish(status), stays=bool(pending))
    if pending:
        await wait_settled()


async def _heed(front: Front, scope: trio.CancelScope, signals: list[int]) -> None:
    import trio

    await trio.lowlevel.wait_readable(front.orders)
    signals.append(front.signal())
    scope.cancel()


class _Maker:
    """Makes one operand after the other and tells what became of each."""

    def __init__(self, options: Options, plan: Plan, voice: Voice) -> None:
        self._options = options
        self._plan = plan
        self._voice = voice
        self._policy = _policy(options)
        self._operand: str | None = None  # the one in progress
        self._nursery: RollbackNursery  # its own
        self._named: set[str] = set()  # what a file names, if modes are to be set
        self.status = 0
        self.done = False

    async def make_all(self, operands: Iterable[str]) -> None:  # noqa: ASYNC910 - there is one
        """Make every one that can be made."""
        for operand in operands:
            self._operand = operand
            failure = await self._make(operand)
            if failure is None:
                self._tell(operand, None)
            else:
                self.status = FAILED
                await self._tell_failure(operand, failure)
        self._operand = None
        self.done = True

    async def sweep(self, directory: str) -> None:
        """Remove what is left hidden in ``directory``."""
        import trio

        from ._sweep import Sweeping, sweep

        self._operand = directory
        told = Sweeping(self._voice, verbose=self._options.verbose)
        try:
            await trio.to_thread.run_sync(sweep, directory, told, abandon_on_cancel=True)
        finally:
            told.is_over = True
        self.status = told.status
        self._operand = None
        self.done = True

    async def _make(self, operand: str) -> OSError | None:
        """Make it wholly, its mode included, or not at all; what is returned prevented it."""
        from trio_mkdir import open_rollback_nursery

        failure: OSError | None = None
        with _without_rollback_errors():
            async with open_rollback_nursery(policy=self._policy) as self._nursery:
                try:
                    report = await self._mkdir(operand)
                    if self._plan.final is not None:
                        await self._set_modes(self._asked_for(report), *self._plan.final)
                except OSError as error:
                    failure = error
                    self._nursery.cancel_scope.cancel()
                except LookupError as error:
                    failure = UnknownAccount(errno.EINVAL, str(error), operand)
                    self._nursery.cancel_scope.cancel()
        return failure

    async def _mkdir(self, operand: str) -> Report:
        plan, nursery, options = self._plan, self._nursery, self._options
        if options.source is not None:
            listed = names(operand, null=options.null, note=self._note)
            with shown() as progress:
                async with contextlib.aclosing(listed):
                    return await nursery.makedirs_many(
                        listed,
                        plan.mode,
                        parent_mode=plan.parent_mode,
                        progress=progress,
                        **options.keywords(),
                    )
        if not options.parents:
            return await nursery.mkdir(operand, plan.mode, **options.keywords())
        return await nursery.makedirs(
            operand,
            plan.mode,
            exist_ok=True,
            parent_mode=plan.parent_mode,
            **options.keywords(),
        )

    def _note(self, name: str) -> None:
        if self._plan.final is not None:
            self._named.add(plain(name))

    def _asked_for(self, report: Report) -> list[str]:
        """What was created and not only on the way, the deepest first."""
        created = [os.fsdecode(path) for path in reversed(report.created)]
        if self._options.source is None:
            return [path for path in created if path == self._operand]
        return [path for path in created if plain(path) in self._named]

    async def _set_modes(self, paths: list[str], mode: int, explicit: int) -> None:  # noqa: ASYNC910 - there may be none
        import trio

        correct = correct_mode
        if self._options.beneath is not None:
            correct = functools.partial(correct_mode_beneath, self._options.beneath)
        if self._options.durable:
            correct = functools.partial(correct, durable=True)
        corrections = Corrections(correct, paths, mode, explicit)
        done = not paths
        try:
            while not done:
                with trio.fail_after(SLICE + self._options.step_timeout):
                    done = await trio.to_thread.run_sync(
                        corrections.go_on, SLICE, abandon_on_cancel=True
                    )
        except trio.TooSlowError:
            raise CannotSetMode(errno.ETIMEDOUT, SILENCE, corrections.path) from None
        except OSError as error:
            raise CannotSetMode(error.errno, error.strerror, corrections.path) from None
        finally:
            corrections.given_up = True

    async def _tell_failure(self, operand: str, error: OSError) -> None:
        self._voice.complain(await sentence(error, self._options))
        cause: RootCause | None = getattr(error, "root_cause", None)
        self._tell(
            operand,
            {
                "errno": error.errno,
                "name": errno.errorcode.get(error.errno or 0),
                "message": error.strerror,
                "root_cause": None if cause is None else cause.name,
                "path": error.filename,
                "notes": getattr(error, "__notes__", []),
            },
        )

    def tell_unfinished(self, why: str) -> None:
        """Tell of the operand in progress, if there is one, that it was cancelled."""
        if self._operand is None:
            return
        if self._options.sweep is not None:
            self._voice.complain(f"cannot sweep {quote(self._operand)}: {why}")
            return
        what = "directory" if self._options.source is None else "the directories of"
        self._voice.complain(f"cannot create {what} {quote(self._operand)}: {why}")
        self._tell(
            self._operand,
            {
                "errno": None,
                "name": None,
                "message": why,
                "root_cause": None,
                "path": self._operand,
                "notes": [],
            },
        )

    def _tell(self, operand: str, error: dict[str, object] | None) -> None:
        report = self._nursery.report
        for kept in report.kept:
            self._voice.complain(f"{quote(os.fsdecode(kept.path))} is left: {kept.why}")
        for event in report.unsynced:
            self._voice.complain(
                "a power cut may bring back what was removed from "
                f"{quote(os.fsdecode(event.path))}: {event.why}"
            )
        if self._options.verbose:
            self._tell_verbosely(report, stands=error is None)
        if self._options.json:
            self._voice.out(_in_json(report, operand, error))

    def _tell_verbosely(self, report: Report, *, stands: bool) -> None:
        say = self._voice.err if self._options.json else self._voice.out
        # What is created stands, or is removed below, or is left. Of a failure that is known only
        # where the rollback got to it: the rest may go when nobody can be told any more.
        known = {*report.removed, *(kept.path for kept in report.kept)}
        created = [path for path in report.created if stands or path in known]
        for deed, paths in (("created", created), ("removed", report.removed)):
            for path in paths:
                name = quote_for_shell(os.fsdecode(path))
                say(f"{self._voice.program}: {deed} directory {name}\n")


@contextlib.contextmanager
def _without_rollback_errors() -> Generator[None, None, None]:
    """Let go of what a rollback could not do: it is told of what the report says was kept."""
    from trio_mkdir import RollbackError

    try:
        yield
    except BaseExceptionGroup as group:
        told, others = group.split(RollbackError)
        if told is None:
            raise
        if others is not None:
            raise others from None


def _in_json(report: Report, operand: str, error: dict[str, object] | None) -> str:
    import enum
    import json

    import attrs

    def plain(_owner: object, _field: object, value: object) -> object:
        return value.name if isinstance(value, enum.Enum) else value

    record = attrs.asdict(report, value_serializer=plain)
    return json.dumps({**record, "path": operand, "error": error}) + "\n"


def _policy(options: Options) -> Policy:
    import attrs

    from trio_mkdir import Policy

    policy = Policy(step_timeout=options.step_timeout)
    if options.retries is None:
        return policy
    retries = {
        cause: attrs.evolve(backoff, max_retries=options.retries)
        for cause, backoff in policy.retries.items()
    }
    return attrs.evolve(policy, retries=retries)
