"""From the arguments to the status."""

# Imported is what the path taken needs, when it needs it: start-up is most of the command's time.
# ruff: noqa: PLC0415

from __future__ import annotations

import os
import sys

from trio_mkdir import __version__

from ._modes import Plan
from ._options import UsageError, help_text, parse
from ._quoting import quote
from ._voice import FAILED, Voice

TYPE_CHECKING = False  # type checkers know the name; importing typing for it would cost time
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._options import Options

LABELLING = ("/sys/fs/selinux/enforce", "/sys/fs/smackfs/load2")  # where SELinux or SMACK is in use


def main() -> int:
    """Do what `sys.argv` asks for and return the command's exit status."""
    called = os.path.basename(sys.argv[0])
    voice = Voice("trio-mkdir" if called == "__main__.py" else called)
    try:
        options = parse(sys.argv[1:])
        _warn_of_contexts(options.contexts, voice)
        if options.help:
            return voice.end_with(help_text(voice.program))
        if options.version:
            return voice.end_with(f"trio-mkdir {__version__}\n")
        _check(options)
        plan = _plan(options)
    except UsageError as error:
        voice.complain(error.message)
        if error.hint:
            voice.err(f"Try '{voice.program} --help' for more information.\n")
        return FAILED
    if plan.umask is not None:
        os.umask(plan.umask)
    from ._front import in_child
    from ._work import work

    return in_child(lambda front: work(options, plan, voice, front), voice)


def _check(options: Options) -> None:
    if options.sweep is not None:
        _check_sweep(options)
        return
    if options.source is None:
        if not options.operands:
            raise UsageError("missing operand", hint=True)
        if options.null:
            raise UsageError("--null goes with --from only", hint=True)
    elif options.operands:
        extra = quote(options.operands[0])
        raise UsageError(f"extra operand {extra}: --from names all directories", hint=True)
    else:
        options.parents = True
    if options.exact_mode and options.mode is None:
        raise UsageError("--exact-mode goes with --mode only", hint=True)
    for option, value in (("owner", options.owner), ("group", options.group)):
        if value is not None and not _may_be_one(value):
            raise UsageError(f"invalid {option}: {quote(value)}")
    for option, value in (("--like", options.like), ("--on-mount", options.on_mount)):
        if value == "":
            raise UsageError(f"invalid {option} '': not a directory")


def _may_be_one(text: str) -> bool:
    """Whether it is a number that chown(2) takes, or may be a name."""
    return int(text) < 2**32 - 1 if text.isascii() and text.isdecimal() else text != ""


def _check_sweep(options: Options) -> None:
    if options.operands:
        extra = quote(options.operands[0])
        raise UsageError(f"extra operand {extra}: --sweep makes nothing", hint=True)
    given = {"mode": options.mode, "from": options.source, "json": options.json}
    for name, value in {**given, **options.keywords()}.items():
        if value not in {None, False}:
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} cannot be combined with --sweep", hint=True)


def _plan(options: Options) -> Plan:
    umask = os.umask(0)
    os.umask(umask)
    try:
        return Plan(options.mode, parents=options.parents, umask=umask, exactly=options.exact_mode)
    except ValueError:
        raise UsageError(f"invalid mode {quote(options.mode or '')}") from None


def _warn_of_contexts(contexts: Iterable[str | None], voice: Voice) -> None:
    if contexts and any(map(os.path.exists, LABELLING)):
        raise UsageError("-Z and --context are not supported on an SELinux/SMACK-enabled kernel")
    for context in contexts:
        if context is not None:
            voice.complain(
                "warning: ignoring --context; it requires an SELinux/SMACK-enabled kernel"
            )
