"""What comes out of a run: figures, the bars they are held against, and tables of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final, Literal

import attrs

PASS: Final = "PASS"  # noqa: S105 - a verdict
MISS: Final = "MISS"
SKIPPED: Final = "skipped"


@attrs.frozen
class Figures:
    """Some times of the same thing, in short."""

    count: int
    median: float
    p99: float

    @classmethod
    def of(cls, times: Sequence[float]) -> Figures:
        """Those of ``times``, of which there is one at least."""
        if len(times) < 2:
            return cls(len(times), times[0], times[0])
        p99 = statistics.quantiles(times, n=100, method="inclusive")[98]
        return cls(len(times), statistics.median(times), p99)


@attrs.frozen
class Bar:
    """What a figure has to reach, and whether it does."""

    name: str
    sense: Literal["<=", ">="]
    bound: float
    measured: float | None
    """None if it could not be measured."""
    unit: str = ""
    """Of ``bound`` and ``measured``; empty for a plain ratio."""
    why: str = ""
    """Why it was not measured."""

    @property
    def ratio(self) -> float | None:
        """How much of the bound is used up; 1 is just enough in either sense."""
        if self.measured is None:
            return None
        if self.sense == "<=":
            return self.measured / self.bound
        return self.bound / self.measured if self.measured else float("inf")

    @property
    def verdict(self) -> str:
        """Whether it is reached. Nothing is rounded in its favour."""
        if self.measured is None:
            return SKIPPED
        well = self.measured <= self.bound if self.sense == "<=" else self.measured >= self.bound
        return PASS if well else MISS


@attrs.frozen
class Table:
    """Rows to be read by people."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: str = ""
    """What is to be known of them."""

    def markdown(self) -> str:
        """The rows, the first column to the left and the others to the right."""
        lines = [self.head, ("---", *["---:"] * (len(self.head) - 1)), *self.rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


@attrs.define
class Results:
    """All that a run has found."""

    tables: list[Table] = attrs.field(factory=list)
    bars: list[Bar] = attrs.field(factory=list)
    raw: dict[str, list[dict[str, object]]] = attrs.field(factory=dict)
    """By section; without single times."""

    def record(self, section: str, **fields: object) -> None:
        """Keep some figures for the JSON file and the picture."""
        plain = {
            name: attrs.asdict(value) if isinstance(value, Figures) else value
            for name, value in fields.items()
        }
        self.raw.setdefault(section, []).append(plain)

    def bar(
        self,
        name: str,
        sense: Literal["<=", ">="],
        bound: float,
        measured: float | None,
        *,
        unit: str = "",
        why: str = "",
    ) -> None:
        """Hold a figure against a bound."""
        self.bars.append(Bar(name, sense, bound, measured, unit, why))


def ratio(ours: float, theirs: float) -> str:
    """Ours in theirs, as it is shown everywhere: less than 1 is quicker."""
    return f"{ours / theirs:.2f}" if theirs else "-"


def both(ours: Figures, theirs: Figures) -> str:
    """The ratio of the medians, and that of the 99th percentiles."""
    return f"{ratio(ours.median, theirs.median)} / {ratio(ours.p99, theirs.p99)}"
