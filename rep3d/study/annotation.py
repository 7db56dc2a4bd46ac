"""What it costs to annotate a set of scans, in clicks: records of simulated annotations, their table and their plot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rep3d.console.tables import markdown_table
from rep3d.evaluation.click_summary import COLOURS, MARKERS
from rep3d.evaluation.clicks import AIMS, MOST
from rep3d.evaluation.comparison import CONFIDENCE
from rep3d.evaluation.pictures import save_picture
from rep3d.files import read_json, read_record, write_csv, write_json, write_text
from rep3d.study.learning_curves import mean_and_half, with_interval

AIM = AIMS[0]  # Dice, to which each scan is brought


@dataclass(frozen=True)
class Scan:
    """How one scan was annotated.

    Args:
        case: its name.
        proposal: Dice of the automatic segmentation that the user was shown first; None where there was none.
        discarded: whether the user began from nothing instead, which is an action as a click is.
        dice: before the first click and after each.
    """

    case: str
    proposal: float | None
    discarded: bool
    dice: list[float]

    @property
    def failed(self) -> bool:
        return self.dice[-1] < AIM

    @property
    def clicks(self) -> int:
        """All actions; `MOST` of one that failed."""
        return MOST if self.failed else len(self.dice) - 1 + self.discarded


@dataclass(frozen=True)
class Cell:
    """One set of scans, annotated one after the other.

    Args:
        seed, way: which one.
        scans: in their order.
        seconds: that each training before the cell's end took.
    """

    seed: int
    way: str
    scans: list[Scan]
    seconds: list[float]

    @property
    def clicks(self) -> list[int]:
        """Of each scan."""
        return [scan.clicks for scan in self.scans]


def read_scan(path: Path) -> Scan | None:
    """A scan that `write_scan` wrote; None where there is none."""
    return read_record(path, Scan)


def write_scan(path: Path, scan: Scan) -> None:
    """Write a scan as JSON."""
    write_json(path, asdict(scan))


def read_cell(path: Path) -> Cell | None:
    """A cell that `write_cell` wrote; None where there is none."""
    content = read_json(path)
    return Cell(**{**content, "scans": [Scan(**scan) for scan in content["scans"]]}) if content else None


def write_cell(path: Path, cell: Cell) -> None:
    """Write a cell as JSON."""
    write_json(path, asdict(cell))


def summarize(cells: Sequence[Cell], ways: Sequence[str], rounds: Sequence[int], output: Path) -> str:
    """Write scans.csv, table.md and clicks.png into a folder, and return the table in Markdown.

    Args:
        cells: of the same number of scans.
        ways: in their order; the first is what the others are compared with, seed by seed.
        rounds: numbers of scans after which networks are trained.
        output: the folder.

    Raises:
        ValueError: there are no cells.
    """
    if not cells:
        raise ValueError("no set of scans is finished yet, expected one at least")
    found = {way: {cell.seed: cell for cell in cells if cell.way == way} for way in ways}
    shown = {way: dict(sorted(of_way.items())) for way, of_way in found.items() if of_way}
    write_csv(
        output / "scans.csv", [row for of_way in shown.values() for cell in of_way.values() for row in _rows(cell)]
    )
    stages = list(pairwise([0, *rounds, len(cells[0].scans)]))
    table = f"{result_table(shown, stages, ways[0])}\n\n{_legend(ways[0])}"
    write_text(output / "table.md", table)
    plot(shown, stages, output / "clicks.png")
    return table


Cells = Mapping[str, Mapping[int, Cell]]  # by way and seed
Stages = Sequence[tuple[int, int]]  # scans from and to, half open, that are annotated with the same networks


def result_table(cells: Cells, stages: Stages, baseline: str) -> str:
    """Markdown: per way all clicks, their share of the baseline's, failures, and mean clicks per scan of each stage."""
    parts = [f"scans {first + 1} to {end}" for first, end in stages]
    header = ["way", "seeds", "clicks in all", f"share of {baseline}", "failed scans", *parts, "min a training"]
    rows = []
    for way, of_way in cells.items():
        totals = [float(sum(cell.clicks)) for cell in of_way.values()]
        failed = np.mean([sum(scan.failed for scan in cell.scans) for cell in of_way.values()])
        compared = [] if way == baseline else shares(of_way, cells.get(baseline, {}))
        minutes = [seconds / 60 for cell in of_way.values() for seconds in cell.seconds]
        rows.append(
            (
                way,
                len(of_way),
                with_interval(totals, ".0f"),
                with_interval(compared, ".2f") if compared else "",
                f"{failed:.1f}",
                *(f"{np.mean(_per_scan(of_way, stage)):.1f}" for stage in stages),
                f"{np.mean(minutes):.1f}" if minutes else "",
            )
        )
    return markdown_table(header, rows)


def shares(cells: Mapping[int, Cell], baseline: Mapping[int, Cell]) -> list[float]:
    """Total clicks as a share of the baseline's, of each seed that both have."""
    return [sum(cell.clicks) / sum(baseline[seed].clicks) for seed, cell in cells.items() if seed in baseline]


def plot(cells: Cells, stages: Stages, path: Path) -> None:
    """Clicks per scan, in the mean of each stage and as they add up, with intervals over the seeds."""
    figure = Figure(figsize=(11, 4.5), dpi=130, layout="constrained")
    per_scan, in_all = figure.subplots(1, 2)
    middles = [(first + 1 + end) / 2 for first, end in stages]
    width = 0.15 * min(end - first for first, end in stages)
    for i, (colour, marker, (way, of_way)) in enumerate(zip(COLOURS, MARKERS, cells.items(), strict=False)):
        means, halves = zip(*(mean_and_half(_per_scan(of_way, stage)) for stage in stages), strict=True)
        shift = width * (i - (len(cells) - 1) / 2)  # so that the intervals stand beside each other
        places = [middle + shift for middle in middles]
        per_scan.errorbar(places, means, halves, label=way, color=colour, marker=marker, markersize=5, capsize=3)
        sums = np.cumsum([cell.clicks for cell in of_way.values()], axis=1)
        mean, half = np.array([mean_and_half(column.tolist()) for column in sums.T]).T
        numbers = np.arange(1, len(mean) + 1)
        in_all.plot(numbers, mean, color=colour)
        in_all.fill_between(numbers, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)
    for _, end in stages[:-1]:
        per_scan.axvline(end + 0.5, color="#999999", linewidth=0.8, linestyle=":")
    per_scan.set(ylabel="clicks per scan, between two trainings", ylim=(0, MOST + 0.5))
    in_all.set(ylabel="clicks in all", ylim=(0, None))
    for axes in (per_scan, in_all):
        axes.set_xlabel("scans")
        axes.grid(alpha=0.3)
    seeds = len({seed for of_way in cells.values() for seed in of_way})
    figure.suptitle(f"Clicks to a Dice of {AIM:.2f}: mean and {CONFIDENCE:.0%} interval over {seeds} seed(s)")
    figure.legend(loc="outside lower center", ncols=len(cells), frameon=False)
    save_picture(figure, path)


def _per_scan(cells: Mapping[int, Cell], stage: tuple[int, int]) -> list[float]:
    """Mean clicks per scan of a stage, of each seed."""
    return [float(np.mean(cell.clicks[slice(*stage)])) for cell in cells.values()]


def _rows(cell: Cell) -> Iterator[dict[str, object]]:
    for number, scan in enumerate(cell.scans, 1):
        yield {
            "seed": cell.seed,
            "way": cell.way,
            "number": number,
            "case": scan.case,
            "proposal": "" if scan.proposal is None else f"{scan.proposal:.4f}",
            "discarded": scan.discarded,
            "clicks": scan.clicks,
            "failed": scan.failed,
            "dice": f"{scan.dice[-1]:.4f}",
        }


def _legend(baseline: str) -> str:
    return (
        f"Clicks that bring the scans to a Dice of {AIM:.2f}, in all and per scan between two trainings; to discard a "
        f"proposal counts as one. A scan that {MOST} do not bring there has failed, and counts as {MOST}. In brackets "
        f"{CONFIDENCE:.0%} intervals by Student's t over the seeds; the share of {baseline} is paired by seed."
    )
