"""The figures as a picture, from the raw records alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from _peers import OURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Records = Sequence[Mapping[str, Any]]

_OURS: Final = "#1f77b4"
_THEIRS: Final = "#b8b8b8"
_LATE: Final = "#d62728"
_MARKS: Final = "osD^v<>P"


def draw(raw: Mapping[str, Records], file: Path) -> None:
    """Draw all that there is. Needs matplotlib."""
    import matplotlib as mpl  # noqa: PLC0415 - only who wants a picture needs it

    mpl.use("svg")
    mpl.rcParams.update(
        {
            "svg.fonttype": "none",  # text stays text
            "svg.hashsalt": "benchmarks",  # the same figures make the same file
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    import matplotlib.pyplot as plt  # noqa: PLC0415

    panels = {
        "single": _single,
        "bulk": _bulk,
        "dead mount": _dead_mount,
        "cancellation": _cancellation,
    }
    there = {name: panel for name, panel in panels.items() if raw.get(name)}
    if not there:
        return
    heights = [_height(name, raw[name]) for name in there]
    figure, axes = plt.subplots(
        len(there),
        1,
        figsize=(9, sum(heights)),
        squeeze=False,
        layout="constrained",
        gridspec_kw={"height_ratios": heights},
    )
    for row, (name, panel) in zip(axes, there.items(), strict=True):
        panel(row[0], raw[name])
    figure.savefig(file, format="svg", metadata={"Date": None})
    plt.close(figure)
    # matplotlib leaves blanks at the ends of lines.
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")


def _height(name: str, records: Records) -> float:
    """Inches."""
    rows = {(record["place"], record["scenario"]) for record in records} if name == "single" else ()
    return 1.2 + 0.25 * (len(rows) or len(records))


def _single(axes: Axes, records: Records) -> None:
    """A row for each scenario, a mark for each peer; left of the line, ours is quicker."""
    rows: dict[str, dict[str, float]] = {}
    for record in records:
        row = rows.setdefault(f"{record['scenario']}, {record['place']}", {})
        row[record["peer"]] = record["seconds"]["median"]
    others = list(dict.fromkeys(peer for row in rows.values() for peer in row if peer != OURS))
    for peer, mark in zip(others, _MARKS, strict=False):
        ratios = [row[OURS] / row[peer] for row in rows.values()]
        axes.plot(ratios, range(len(rows)), mark, label=f"to {peer}", markersize=5, alpha=0.8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    ticks = [0.5, 1, 1.5, 2, 4, 8, 16]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_title("A single call: our median divided by theirs (left of 1: ours is quicker)")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)


def _horizontal(
    axes: Axes, labels: Sequence[str], values: Sequence[float], words: Sequence[str] = ()
) -> None:
    """A bar for each label, with its figure at the end and, in red, what is to be said of it."""
    colours = [_OURS if label.startswith("trio_mkdir") else _THEIRS for label in labels]
    axes.barh(range(len(labels)), values, color=colours)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    for place, value in enumerate(values):
        said = words[place] if words else ""
        figure = f"{value:.3f}" if value < 10 else f"{value:,.0f}"
        axes.text(value, place, f" {figure}  {said}", va="center", color=_LATE if said else "black")


def _bulk(axes: Axes, records: Records) -> None:
    labels = [f"{record['peer']}, {record['place']}" for record in records]
    _horizontal(axes, labels, [record["seconds"]["median"] for record in records])
    axes.set_title(f"{records[0]['count']:,} directories: median, seconds")


def _dead_mount(axes: Axes, records: Records) -> None:
    _horizontal(axes, [r["peer"] for r in records], [r["kept"] for r in records])
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_title("A healthy mount beside a dead one: what is left of the throughput")


def _cancellation(axes: Axes, records: Records) -> None:
    seen = [record for record in records if record["calls"]]
    values = [record["hung"]["median"] * 1e3 if record["hung"] else 0.0 for record in seen]
    words = []
    for record in seen:
        late = f"{record['late']} of {record['calls']} not back" * bool(record["late"])
        left = f"{record['left']} directories came late and stayed" * bool(record["left"])
        words.append(", ".join(filter(None, (late, left))))
    _horizontal(axes, [record["peer"] for record in seen], values, words)
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xlim(0, 10_000)
    axes.set_title("Cancelled on a mount that hangs: milliseconds until it is back, median")
