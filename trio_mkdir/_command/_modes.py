"""Modes as GNU mkdir has them: mode strings, and how a directory gets the mode that one asks for.

A mode string is a comma-separated list of clauses, ``u=rwx,g+w,o-x`` or ``+t`` or ``=750``::

    [ugoa]*([-+=]([rwxXst]*|[ugo]))+      symbolic; without a "who" the umask decides who is meant
    [-+=][0-7]+                           an operator with an octal number, for all bits
    [0-7]+                                alone: the whole mode

It changes a=rwx, as there is no older mode, and it is for directories: X is always x, and
set-user-ID and set-group-ID, which a directory may inherit, are left alone unless it mentions them.

Nothing here touches the filesystem or the process: the umask is an argument.
"""

from __future__ import annotations

import re

_ALL = 0o7777
_INHERITED = 0o6000  # what a directory may have from its parent
_START = 0o777

_WHO = {"u": 0o4700, "g": 0o2070, "o": 0o1007, "a": _ALL}
_WHAT = {"r": 0o444, "w": 0o222, "x": 0o111, "X": 0o111, "s": 0o6000, "t": 0o1000}
_COPIED_FROM = {"u": 6, "g": 3, "o": 0}  # how far the class's three bits are from the right

_SYMBOLIC = r"[-+=](?:[ugo]|[rwxXst]*)"
_CLAUSE = re.compile(rf"(?P<who>[ugoa]*)(?P<symbolic>(?:{_SYMBOLIC})*)(?P<octal>[-+=][0-7]+)?")
_OPERATION = re.compile(_SYMBOLIC)
_OCTAL = re.compile("[0-7]+")


def parse_mode(text: str, umask: int) -> tuple[int, int]:
    """The mode that ``text`` gives to a new directory, and which bits it is explicit about.

    A bit that is not among the explicit ones has its value from a=rwx, and what the kernel makes of
    it (by a default ACL or an inherited set-group-ID) is to be left alone.

    Raises:
      ValueError: ``text`` is not a mode.
    """
    if _OCTAL.fullmatch(text):
        return _number(text)
    mode, explicit = _START, 0
    for clause in text.split(","):
        mode, changed = _apply(clause, mode, umask)
        explicit |= changed
    return mode, explicit


def _number(digits: str) -> tuple[int, int]:
    """A number alone; only one of five digits or more, as ``00755``, clears an inherited bit."""
    mode = _octal(digits)
    if len(digits) > 4:
        return mode, _ALL
    return mode, _ALL & ~_INHERITED | mode & _INHERITED


def _octal(digits: str) -> int:
    value = int(digits, 8)
    if value > _ALL:
        raise ValueError(f"mode out of range: {digits!r}")
    return value


def _apply(clause: str, mode: int, umask: int) -> tuple[int, int]:
    """``mode`` after one clause, and which bits that is explicit about."""
    match = _CLAUSE.fullmatch(clause)
    if (
        match is None
        or not (match["symbolic"] or match["octal"])
        or (match["who"] and match["octal"])
    ):
        raise ValueError(f"not a mode: {clause!r}")
    who = 0
    for letter in match["who"]:
        who |= _WHO[letter]
    explicit = 0
    for operation in _OPERATION.findall(match["symbolic"]):
        value, mentioned = _value(operation[1:], mode)
        mode, changed = _change(mode, operation[0], who, value, mentioned, umask)
        explicit |= changed
    if match["octal"]:
        mode, changed = _change(
            mode, match["octal"][0], _ALL, _octal(match["octal"][1:]), _ALL, umask
        )
        explicit |= changed
    return mode, explicit


def _value(letters: str, mode: int) -> tuple[int, int]:
    """The bits that letters stand for, in every class; and which of them they mention."""
    if letters in _COPIED_FROM:
        return (mode >> _COPIED_FROM[letters] & 7) * 0o111, 0
    value = 0
    for letter in letters:
        value |= _WHAT[letter]
    return value, value


def _change(
    mode: int, operator: str, who: int, value: int, mentioned: int, umask: int
) -> tuple[int, int]:
    """``mode`` after one operation, and the bits that it set, cleared or confirmed."""
    kept = _INHERITED & ~(mentioned & who if who else mentioned)
    value &= (who or ~umask) & ~kept
    if operator == "+":
        return mode | value, value
    if operator == "-":
        return mode & ~value, value
    preserved = (~who & _ALL if who else 0) | kept
    return mode & preserved | value, _ALL & ~preserved


def creation_mode(mode: int, explicit: int) -> int:
    """The mode to give to ``mkdir(2)`` on the way to ``mode``.

    A directory that is to be set-user-ID, set-group-ID or sticky is nobody else's to write to
    before it is: between ``mkdir(2)`` and ``chmod(2)`` somebody could get in.
    """
    return mode & ~0o022 if needs_special(mode, explicit) else mode


def needs_special(mode: int, explicit: int) -> bool:
    """Whether bits are asked for, or asked to be off, that ``mkdir(2)`` may not give as asked."""
    return bool(explicit & _INHERITED | mode & 0o1000)


def needs_look(mode: int, explicit: int) -> bool:
    """Whether what ``mkdir(2)`` made has to be compared with what was asked for.

    Bits that nobody mentioned may be as the kernel made them, by a default ACL for one.
    """
    return needs_special(mode, explicit) or bool(mode & explicit & 0o777)


def corrected(found: int, mode: int, explicit: int) -> int | None:
    """The mode to change a new directory to, that has ``found``; None if it is as it was asked for.

    Of the bits that nobody mentioned, those that it has already stay: an inherited set-group-ID.
    """
    if not (found ^ mode) & explicit:
        return None
    return mode | found & _ALL & ~explicit


class Plan:
    """Which modes to ask the kernel for, under which umask.

    The kernel leaves the umask out where a directory inherits a default ACL. So what the umask is
    to take away is left to the umask, and not taken from the mode beforehand, wherever one umask
    can serve parents and leaf alike.

    Raises:
      ValueError: ``text`` is not a mode.
    """

    def __init__(
        self, text: str | None, *, parents: bool, umask: int, exactly: bool = False
    ) -> None:
        self.umask: int | None = None
        """The umask to set; None to leave it alone."""
        self.mode = _START
        """What to make the leaf with."""
        self.parent_mode = _START
        """What to make its parents with."""
        self.final: tuple[int, int] | None = None
        """The mode and explicit bits to compare the leaf with, once it is made."""
        # Parents have to let their owner in, or nothing could be made in them.
        for_parents = umask & ~0o300 if parents else umask
        if exactly and text is not None:
            # The library sees to it, and lets nobody in before.
            self.umask = for_parents
            self.mode, _ = parse_mode(text, umask)
        elif text is not None:
            self._follow(text, umask, for_parents)
        elif for_parents != umask:
            self.umask = for_parents
            self.mode &= ~umask

    def _follow(self, text: str, umask: int, for_parents: int) -> None:
        mode, explicit = parse_mode(text, umask)
        self.mode = creation_mode(mode, explicit)
        self.umask = for_parents & ~mode
        if self.umask != for_parents:
            self.parent_mode &= ~for_parents
        if needs_look(mode, explicit):
            self.final = (mode, explicit)
