"""What is asked for: options, which getopt's rules find and argparse reads, and operands."""

from __future__ import annotations

import argparse
import contextlib
import math
import os

from ._quoting import quote

TYPE_CHECKING = False  # type checkers know the name; importing typing for it would cost time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any


class UsageError(Exception):
    """The arguments are wrong; nothing is made."""

    def __init__(self, message: str, *, hint: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint  # whether to point at --help, as GNU does for some


class Options(argparse.Namespace):
    """The options of one command, and its operands."""

    mode: str | None
    beneath: str | None
    durable: bool
    on_mount: str | None
    exact_mode: bool
    owner: str | None
    group: str | None
    like: str | None
    atomic: bool
    sweep: str | None
    parents: bool
    verbose: bool
    contexts: list[str | None]
    timeout: float
    step_timeout: float
    retries: int | None
    json: bool
    source: str | None
    null: bool
    help: bool
    version: bool
    operands: list[str]

    def keywords(self) -> dict[str, Any]:
        """Those that `mkdir`, `makedirs` and `makedirs_many` take alike, as their keywords."""
        return {
            "beneath": self.beneath,
            "atomic": self.atomic,
            "durable": self.durable,
            "on_mount": self.on_mount,
            "exact_mode": self.exact_mode,
            "owner": _name_or_number(self.owner),
            "group": _name_or_number(self.group),
            "like": self.like,
        }


def _name_or_number(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else text


def _declare(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    add = parser.add_argument
    return [
        add("-m", "--mode", metavar="MODE", help="set file mode (as in chmod), not a=rwx - umask"),
        add(
            *("-p", "--parents"),
            action="store_true",
            help="no error if existing, make parent directories as needed, "
            "with their file modes unaffected by any -m option",
        ),
        add(
            *("-v", "--verbose"),
            action="store_true",
            help="print a message for each created directory",
        ),
        add(
            "-Z",
            dest="contexts",
            action="append_const",
            const=None,
            default=[],
            help="accepted where neither SELinux nor SMACK is in use, and refused where one is",
        ),
        add(
            "--context",
            dest="contexts",
            action="append",
            nargs="?",
            default=[],
            metavar="CTX",
            help="like -Z",
        ),
        add(
            "--beneath",
            metavar="ROOT",
            help="take each DIRECTORY as relative to ROOT, and never make, look at or remove "
            "anything outside it",
        ),
        add(
            "--durable",
            action="store_true",
            help="have each DIRECTORY written to the disk, so that it survives a power cut",
        ),
        add(
            "--on-mount",
            metavar="PATH",
            help="fail if a DIRECTORY is not on the mount whose mount point is PATH",
        ),
        add(
            "--exact-mode",
            action="store_true",
            help="with --mode: give each DIRECTORY precisely that mode, and nobody a way in before",
        ),
        add(
            "--owner",
            metavar="OWNER",
            help="set the owner of each created directory, parents included, by name or number",
        ),
        add(
            "--group",
            metavar="GROUP",
            help="set the group of each created directory, parents included, by name or number",
        ),
        add(
            "--like",
            metavar="DIR",
            help="give each created directory the owner, group, mode, ACLs and extended attributes "
            "that DIR has, unless other options say otherwise",
        ),
        add(
            "--atomic",
            action="store_true",
            help="let what is missing of each DIRECTORY appear at once and whole, or not at all, "
            "also if this is killed",
        ),
        add(
            "--sweep",
            metavar="DIR",
            help="make nothing; remove, in DIR and below, what --atomic has left hidden where it "
            "was killed",
        ),
        add(
            "--timeout",
            action=_number(float, "a number of seconds, 0 or more", lambda value: value >= 0),
            default=math.inf,
            metavar="SECONDS",
            help="undo what is unfinished after so long, and exit with status 124",
        ),
        add(
            "--step-timeout",
            action=_number(float, "a number of seconds greater than 0", lambda value: value > 0),
            default=5.0,
            metavar="SECONDS",
            help="wait so long for a single system call (default: 5)",
        ),
        add(
            "--retries",
            action=_number(int, "a whole number, 0 or more", lambda value: value >= 0),
            metavar="N",
            help="try so often again after a failure that can pass (default: by its cause)",
        ),
        add(
            "--json",
            action="store_true",
            help="print a report on each DIRECTORY to standard output, one a line; "
            "what --verbose prints goes to standard error",
        ),
        add(
            "--from",
            dest="source",
            metavar="FILE",
            help="make all directories that FILE names, one a line, as with --parents: "
            "all of them or none; with FILE as -, read standard input",
        ),
        add(
            *("-0", "--null"),
            action="store_true",
            help="with --from: names end with a null byte, not with the line",
        ),
        add("--help", action="store_true", help="display this help and exit"),
        add("--version", action="store_true", help="output version information and exit"),
    ]


def _number(
    convert: Callable[[str], float], wanted: str, is_good: Callable[[float], bool]
) -> type[argparse.Action]:
    class Number(argparse.Action):
        def __call__(
            self,
            _parser: argparse.ArgumentParser,
            namespace: argparse.Namespace,
            values: object,
            _option_string: str | None = None,
        ) -> None:
            text = str(values)
            with contextlib.suppress(ValueError):
                value = convert(text)
                if is_good(value):  # NaN is never good
                    setattr(namespace, self.dest, value)
                    return
            raise UsageError(f"invalid {self.option_strings[0]} {quote(text)}: not {wanted}")

    return Number


def parse(argv: Sequence[str]) -> Options:
    """The options and operands in ``argv``.

    The words are read as getopt_long(3) reads them. argparse alone would take ``-m -w`` for an
    option without its value and ``-1`` for an operand, and would not stop where GNU stops.
    """
    parser = argparse.ArgumentParser(add_help=False)
    found, operands = split(argv, _declare(parser))
    options = parser.parse_args([], namespace=Options())  # the defaults
    for action, value in found:
        action(parser, options, value)
    options.operands = operands
    return options


def split(
    argv: Sequence[str], actions: Iterable[argparse.Action]
) -> tuple[list[tuple[argparse.Action, str | None]], list[str]]:
    """Options with their values, and operands, wherever they stood."""
    reader = _Reader(argv, actions)
    options: list[tuple[argparse.Action, str | None]] = []
    operands: list[str] = []
    while reader.rest:
        word = reader.rest.pop()
        if word == "--":
            return options, operands + reader.rest[::-1]
        if word.startswith("--"):
            options.append(reader.long(word))
        elif word.startswith("-") and word != "-":
            options += reader.short(word)
        elif "POSIXLY_CORRECT" in os.environ:
            return options, [word, *reader.rest[::-1]]
        else:
            operands.append(word)
        if options and options[-1][0].dest in {"help", "version"}:
            break  # GNU has ended there, whatever follows
    return options, operands


class _Reader:
    """Reads one option at a time and, where that is its value, the word after it."""

    def __init__(self, argv: Sequence[str], actions: Iterable[argparse.Action]) -> None:
        self.rest = list(argv[::-1])
        self._actions = {name: action for action in actions for name in action.option_strings}

    def long(self, word: str) -> tuple[argparse.Action, str | None]:
        written, equals, value = word.partition("=")
        name = self._complete(written, word)
        action = self._actions[name]
        if equals:
            if action.nargs == 0:
                raise UsageError(f"option '{name}' doesn't allow an argument", hint=True)
            return action, value
        if action.nargs is not None:
            return action, None
        if not self.rest:
            raise UsageError(f"option '{name}' requires an argument", hint=True)
        return action, self.rest.pop()

    def _complete(self, written: str, word: str) -> str:
        if written in self._actions:
            return written
        names = [name for name in self._actions if name.startswith(written)]
        if not names:
            raise UsageError(f"unrecognized option '{word}'", hint=True)
        if len(names) > 1:
            choices = " ".join(f"'{name}'" for name in names)
            raise UsageError(f"option '{word}' is ambiguous; possibilities: {choices}", hint=True)
        return names[0]

    def short(self, word: str) -> Iterable[tuple[argparse.Action, str | None]]:
        for place, letter in enumerate(word[1:], 2):
            action = self._actions.get("-" + letter)
            if action is None:
                byte = os.fsdecode(os.fsencode(letter)[:1])  # getopt knows no longer letters
                raise UsageError(f"invalid option -- '{byte}'", hint=True)
            if action.nargs == 0:
                yield action, None
                continue
            if not (word[place:] or self.rest):
                raise UsageError(f"option requires an argument -- '{letter}'", hint=True)
            yield action, word[place:] or self.rest.pop()
            return


def help_text(program: str) -> str:
    parser = argparse.ArgumentParser(
        prog=program,
        usage="%(prog)s [OPTION]... DIRECTORY...\n       %(prog)s [OPTION]... --from FILE"
        "\n       %(prog)s [-v] --sweep DIR",
        description="Create the DIRECTORY(ies), if they do not already exist. "
        "Each is made wholly or not at all.",
        add_help=False,
    )
    _declare(parser)
    return parser.format_help()
