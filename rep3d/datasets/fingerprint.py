"""What the data of a set look like: size, spacing, intensities and label volumes, as a table and as plots."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np

from rep3d.console.tables import markdown_table
from rep3d.data.checks import image_problem, label_problem
from rep3d.data.leakage import voxel_digest
from rep3d.data.notes import is_drawn
from rep3d.files import whole_file, write_csv
from rep3d.io.geometry import Geometry
from rep3d.io.nifti import read_channels, read_volume

PERCENTILES = (0.5, 5.0, 50.0, 95.0, 99.5)
MEDIAN = 50.0  # of several channels the picture shows this one alone
QUANTILES = tuple(np.linspace(0, 100, 201).tolist())  # percentiles that tell a distribution
SAMPLES = 10_000_000  # voxels of an image that percentiles look at
SPACING_TOLERANCE = 1e-2  # millimetres
DIGITS = 6  # of a spacing


class CaseFacts(NamedTuple):
    case: str
    shape: Sequence[int]
    spacing: Sequence[float]  # millimetres
    orientation: str  # such as "RAS"
    percentiles: Sequence[Sequence[float]]  # of all voxels of each channel, see PERCENTILES
    foreground_percentiles: Sequence[Sequence[float]]  # of the labelled voxels; empty where nothing is labelled
    voxels: Sequence[int]  # of each label id
    digest: str  # see `rep3d.data.leakage.voxel_digest`
    foreground_quantiles: Sequence[Sequence[float]]  # of the labelled voxels, see QUANTILES
    note: str = ""  # what is odd about the files, and no problem
    drawn: Sequence[bool] = ()  # of each channel: whether it looks as a label map does

    @property
    def channels(self) -> int:
        return len(self.percentiles)


def examine(
    case: str, images: Sequence[str], label: str, classes: int, ignored: int | None = None
) -> tuple[CaseFacts, list[str]]:
    """The facts of a pair whose headers agree, and what is wrong with its voxels and spacing.

    Args:
        case: its name.
        images: the image's file, or that of each channel.
        label: the label map's file.
        classes: label ids are 0 to classes - 1.
        ignored: the one that is no label, of voxels that nobody has judged.

    Raises:
        VolumeError: the voxels cannot be read.
    """
    image, (ids, _) = images[0], read_volume(label)
    intensities, geometry = _read_image(images)
    shape, affine = geometry.shape, geometry.affine
    values, counts = np.unique(ids, return_counts=True)
    problems = [(image, image_problem(intensities)), (label, label_problem(values, classes))]
    problems.append((image, _spacing_problem(geometry)))
    if min(shape) < 2:
        problems.append((image, f"shape {shape}, a single slice is no volume"))
    voxels_of = dict(zip(values.tolist(), counts.tolist(), strict=True))
    foreground = intensities[:, (ids > 0) & (ids != ignored)]
    facts = CaseFacts(
        case,
        shape=[int(n) for n in shape],
        spacing=[float(f"{s:.{DIGITS}g}") for s in nib.affines.voxel_sizes(affine)],
        orientation="".join(nib.aff2axcodes(affine)),
        percentiles=[_percentiles(channel) for channel in intensities],
        foreground_percentiles=[_percentiles(channel) for channel in foreground if channel.size],
        voxels=[int(voxels_of.get(i, 0)) for i in range(classes)],
        foreground_quantiles=[_percentiles(channel, QUANTILES) for channel in foreground if channel.size],
        digest=voxel_digest(intensities, affine),
        drawn=[is_drawn(channel) for channel in intensities],
    )
    return facts, [f"{path}: {problem}" for path, problem in problems if problem]


def _read_image(files: Sequence[str]) -> tuple[np.ndarray, Geometry]:
    """The voxels (C, D, H, W) of one file with all channels, or of one for each."""
    voxels, geometry = read_channels(files[0])
    return (
        voxels if len(files) == 1 else np.concatenate([voxels, *(read_channels(path)[0] for path in files[1:])])
    ), geometry


def _percentiles(values: np.ndarray, which: Sequence[float] = PERCENTILES) -> list[float]:
    some = values.ravel(order="K")[:: 1 + values.size // SAMPLES]
    return [round(float(p), 3) for p in np.percentile(some, which)]


def _spacing_problem(geometry: Geometry) -> str:
    """Readers that look at `pixdim`, as ITK does, and readers that look at the affine must see the same."""
    if geometry.itk_affine is None:
        return ""
    declared, actual = (nib.affines.voxel_sizes(affine) for affine in (geometry.itk_affine, geometry.affine))
    if np.allclose(declared, actual, atol=SPACING_TOLERANCE):
        return ""
    return f"spacing {declared.round(3).tolist()} in the header, {actual.round(3).tolist()} in the affine (mm)"


def write_fingerprint(facts: Sequence[CaseFacts], label_names: Sequence[str], folder: str | os.PathLike) -> None:
    """Leave fingerprint.csv, one row per case, and fingerprint.png in a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "fingerprint.csv", [_row(fact, label_names) for fact in facts])
    _plot(facts, label_names, folder / "fingerprint.png")


def _row(fact: CaseFacts, label_names: Sequence[str]) -> dict[str, object]:
    row: dict[str, object] = {"case": fact.case, "orientation": fact.orientation}
    row |= {f"voxels along axis {axis}": n for axis, n in enumerate(fact.shape)}
    row |= {f"spacing of axis {axis} (mm)": s for axis, s in enumerate(fact.spacing)}
    for c, told in _channels(fact.channels):
        foreground = fact.foreground_percentiles[c] if fact.foreground_percentiles else [""] * len(PERCENTILES)
        row |= {f"{told}percentile {p}": v for p, v in zip(PERCENTILES, fact.percentiles[c], strict=True)}
        row |= {f"{told}foreground percentile {p}": v for p, v in zip(PERCENTILES, foreground, strict=True)}
    return row | {f"voxels of {name}": n for name, n in zip(label_names, fact.voxels, strict=True)}


def _channels(count: int) -> list[tuple[int, str]]:
    """The channels, and what stands before the facts of each: nothing of a single one."""
    return [(c, f"channel {c}, " if count > 1 else "") for c in range(count)]


def summary(facts: Sequence[CaseFacts], label_names: Sequence[str]) -> str:
    """Markdown tables: median and range over the cases, and the cases that show each label."""
    values: dict[str, list[float]] = {}
    values |= {f"voxels along axis {axis}": [fact.shape[axis] for fact in facts] for axis in range(3)}
    values |= {f"spacing of axis {axis} (mm)": [fact.spacing[axis] for fact in facts] for axis in range(3)}
    for c, told in _channels(facts[0].channels):
        for i, p in enumerate(PERCENTILES):
            values[f"{told}intensity, percentile {p}"] = [fact.percentiles[c][i] for fact in facts]
    ranges = [[name, *(f"{f(of_cases):g}" for f in (np.median, min, max))] for name, of_cases in values.items()]
    volumes, labels = _volumes(facts), []
    for i, name in enumerate(label_names[1:], 1):
        present = volumes[volumes[:, i] > 0, i]
        labels.append([name, f"{present.size} of {len(facts)}", f"{np.median(present):.1f}" if present.size else "-"])
    tables = [
        markdown_table(["fact", "median", "smallest", "largest"], ranges),
        markdown_table(["label", "cases", "median volume (ml)"], labels),
    ]
    return "\n\n".join(tables)


def _volumes(facts: Sequence[CaseFacts]) -> np.ndarray:
    """Millilitres, (cases, labels)."""
    return np.array([np.multiply(fact.voxels, np.prod(fact.spacing) / 1000) for fact in facts])


def _plot(facts: Sequence[CaseFacts], label_names: Sequence[str], path: Path) -> None:
    figure, ((sizes, spacings), (intensities, volumes)) = plt.subplots(2, 2, figsize=(12, 8), layout="constrained")
    axes = [f"axis {axis}" for axis in range(3)]
    sizes.boxplot([[fact.shape[axis] for fact in facts] for axis in range(3)])
    sizes.set_xticks([1, 2, 3], axes)
    sizes.set(title=f"Size of {len(facts)} cases", ylabel="voxels")
    spacings.boxplot([[fact.spacing[axis] for fact in facts] for axis in range(3)])
    spacings.set_xticks([1, 2, 3], axes)
    spacings.set(title="Spacing", ylabel="mm")
    labelled = [fact.foreground_percentiles for fact in facts if fact.foreground_percentiles]
    for c, told in _channels(facts[0].channels):
        for i, p in enumerate(PERCENTILES):
            if not told or p == MEDIAN:
                intensities.plot(sorted(of_case[c][i] for of_case in labelled), label=f"{told}percentile {p}")
    intensities.set(title="Intensity of the labelled voxels", xlabel="case, sorted for each line", yscale="symlog")
    intensities.legend(fontsize="small")
    of_label = [column[column > 0] for column in _volumes(facts).T[1:]]
    volumes.boxplot(of_label)
    volumes.set_xticks(range(1, len(label_names)), label_names[1:], rotation=30, ha="right")
    volumes.set(title="Volume of the labels, where present", ylabel="ml", yscale="log")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)
