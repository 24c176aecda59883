"""File names as GNU has them in its messages, in the locale's letters."""

from __future__ import annotations

import os

_ESCAPES = {
    "\a": r"\a",
    "\b": r"\b",
    "\t": r"\t",
    "\n": r"\n",
    "\v": r"\v",
    "\f": r"\f",
    "\r": r"\r",
}
_SPECIAL_TO_SHELLS = frozenset('\\?!"$&()*;<=>[^`|#~{}')


def quote(name: str) -> str:
    """``name`` as in GNU's messages: in single quotes, with C's escapes."""
    return "'" + "".join([_escape(c) or ("\\" + c if c in "'\\" else c) for c in name]) + "'"


def quote_for_shell(name: str) -> str:
    """``name`` as GNU's ``--verbose`` has it: to be pasted into a shell."""
    if "'" in name and not any(c in _SPECIAL_TO_SHELLS or _escape(c) for c in name.lstrip("#~")):
        return f'"{name}"'
    quoted, escaping = "'", False
    for character in name:
        escape = _escape(character)
        if escape:
            quoted += escape if escaping else f"'$'{escape}"
        elif character == "'":
            quoted += r"'\''"
        else:
            quoted += f"''{character}" if escaping else character
        escaping = bool(escape)
    return quoted + "'"


def _escape(character: str) -> str:
    """The escape for a character that is not to be printed as it is; "" for any other."""
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable() and (character.isascii() or _prints_unicode()):
        return ""
    return "".join([f"\\{byte:03o}" for byte in os.fsencode(character)])


def _prints_unicode() -> bool:
    # Not the encoding of sys.stdout: Python makes that UTF-8 in the C locale, too.
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        if locale := os.environ.get(name):
            return locale.lower().replace("-", "").endswith("utf8")
    return False
