"""Checks of options where they are constructed: each names the option and the value."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable


@attrs.frozen
class Check:
    """One condition on a number, as an attrs validator or called by hand with `check`."""

    wanted: str
    holds: Callable[[Any], bool]
    kind: type = Real
    article: str = "a"

    def __call__(self, _: object, attribute: attrs.Attribute[Any], value: object) -> None:
        """Validate one attribute, as attrs asks for it."""
        self.check(attribute.name, value)

    def check(self, name: str, value: object) -> object:
        """``value``, or a TypeError or ValueError that names the option."""
        if isinstance(value, bool) or not isinstance(value, self.kind):
            raise TypeError(f"{name} must be {self.article} number, not {value!r}")
        if not self.holds(value):  # NaN holds nowhere
            raise ValueError(f"{name} must be {self.wanted}, not {value!r}")
        return value


def at_least(bound: float) -> Check:
    """A number not below ``bound``."""
    return Check(f"at least {bound!r}", lambda value: value >= bound)


positive = Check("greater than 0", lambda value: value > 0)
non_negative = Check("0 or more", lambda value: value >= 0)
finite = Check("finite", lambda value: -math.inf < value < math.inf)
whole_or_infinite = Check(
    "a whole number, 0 or more, or math.inf",
    lambda value: value >= 0 and (value == math.inf or value == int(value)),
)
whole_positive = Check("1 or more", lambda value: value >= 1, Integral, "a whole")
