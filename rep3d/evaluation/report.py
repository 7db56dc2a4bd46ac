"""What people look at after a training and its evaluation: two pictures, a table, and one page that holds them.

Where a file is missing FileNotFoundError, where it has the wrong form ValueError names it and says what was expected.
"""

import base64
import html
import math
import textwrap
from bisect import bisect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from rep3d.console.tables import markdown_table
from rep3d.evaluation.scores import Scores, case_means, table
from rep3d.files import whole_file

BLUE, VERMILION, RED, GRAY = "#0072B2", "#D55E00", "#FF2020", "#999999"
# Okabe and Ito's first, which every kind of colour vision tells apart; then what stays distinct on a gray image.
LABEL_COLOURS = "#E69F00 #56B4E9 #009E73 #F0E442 #0072B2 #D55E00 #CC79A7 #7CFC5A #FF3B5C #9A7BFF #8B5A2B".split()
LABEL_COLOURS += "#00E5D4 #FFC9B5 #C026D3 #A3B18A".split()
COLUMNS = ("image", "truth", "prediction", "difference")
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}  # the RAS axis that is perpendicular to the plane


def training_curve(tensorboard_dir: str | Path, path: str | Path) -> Path:
    """Draw training loss and validation Dice, 0 to 1, and return the path of the PNG, 1200 x 700 pixels.

    Reads all event files below the folder; where a later one, of a resumed run, goes back to an earlier step, it
    replaces what followed. The loss is the scalar with "loss" in its tag, the Dice the one with "dice", of the mean
    rather than of a class; ValueError if there is neither. A loss that is not finite in the end has diverged, which the
    legend says.
    """
    scalars = _read_scalars(Path(tensorboard_dir))
    losses = _loss_tags(scalars)
    dices = [tag for tag in scalars if "dice" in tag.lower() and tag not in losses]
    if not losses and not dices:
        raise ValueError(f"{tensorboard_dir}: expected scalars named after 'loss' or 'dice', got {list(scalars)}")
    loss_tag = losses[0] if losses else ""
    # The shortest among equals: the name of a class makes a tag longer.
    dice_tag = min(dices, key=lambda tag: ("train" in tag.lower(), "mean" not in tag.lower(), len(tag)), default="")
    loss, dice = scalars.get(loss_tag, []), scalars.get(dice_tag, [])
    per_epoch = _iterations_per_epoch(loss, dice)
    unit = "epoch" if per_epoch > 1 else "step"

    figure = Figure(figsize=(8, 14 / 3), dpi=150, layout="constrained")
    left = figure.subplots()
    left.set_xlabel(unit)
    left.grid(alpha=0.25)
    lines = []
    if loss:
        steps, values = np.array([(event.step / per_epoch, event.value) for event in loss]).T
        left.plot(steps, values, color=BLUE, alpha=0.25, linewidth=1)
        finite, window = np.isfinite(values), np.ones(len(values) // 20 | 1)
        smooth = np.convolve(np.where(finite, values, 0), window, "same") / np.convolve(finite + 1e-9, window, "same")
        smooth[~finite] = np.nan  # a loss that diverged ends
        label = (
            f"{loss_tag}, smoothed" if finite[-1] else f"{loss_tag}, smoothed, diverged before {unit} {steps[-1]:.3g}"
        )
        lines += left.plot(steps, smooth, color=BLUE, linewidth=2, label=label)
        left.set_ylabel("training loss", color=BLUE)
    if dice:
        steps, values = np.array([(event.step, event.value) for event in dice]).T
        best = int(np.argmax(np.nan_to_num(values)))
        label = f"{dice_tag}, best {values[best]:.3f} at {unit} {dice[best].step}"
        right = left.twinx()
        right.set_ylim(0, 1)
        right.set_ylabel("validation Dice", color=VERMILION)
        lines += right.plot(steps, values, color=VERMILION, marker=".", label=label)
    figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False)
    return _save(path, figure)


def divergence(tensorboard_dir: str | Path) -> str:
    """In words, that a training diverged and when: its loss is not finite in the end. Empty where it did not."""
    scalars = _read_scalars(Path(tensorboard_dir))
    loss = [event for tag in _loss_tags(scalars)[:1] for event in scalars[tag]]
    if not loss or math.isfinite(loss[-1].value):
        return ""
    last = max((event.step for event in loss if math.isfinite(event.value)), default=0)
    return f"diverged: the loss was not finite any more after step {last}"


def overlay_montage(
    cases: Sequence[tuple[str, str | Path, str | Path | None, str | Path]],
    labels: Mapping[int, str],
    path: str | Path,
    columns: Sequence[str] = COLUMNS,
    plane: str = "axial",
    window: tuple[float, float] | None = None,
) -> Path:
    """Draw the slice with most labelled voxels of each case, in true proportions, and return the path of the PNG.

    As radiologists do, the patient's right (R), in sagittal slices the front (A), is shown on the left. The Dice is
    that of the volume, the mean over the labels that its truth contains. Red is where truth, outlined in white, and
    prediction differ.

    Args:
        cases: name and NIfTI files of image, truth or None, and prediction: (D, H, W), or (D, H, W, 1), of one grid,
            in any orientation. The truth chooses the slice; where there is none or it is empty, the prediction.
        labels: names of up to 15 label ids; 0 is background, other ids are drawn in gray.
        path: of the PNG, about 1300 pixels wide.
        columns: some of "image", "truth", "prediction" and "difference".
        plane: "axial", "coronal" or "sagittal".
        window: intensities shown as black and as white; by default the slice's 1st and 99th percentile.
    """
    names = {i: labels[i] for i in sorted(labels) if i != 0}
    if not 1 <= len(names) <= len(LABEL_COLOURS):
        raise ValueError(f"labels must name 1 to {len(LABEL_COLOURS)} ids other than 0, got {dict(labels)}")
    if not cases or not columns or not set(columns) <= set(COLUMNS) or plane not in PLANES:
        raise ValueError(f"expected cases, some of {COLUMNS}, one of {[*PLANES]}; got {len(cases)}, {columns}, {plane}")
    rows = [_load_case(case, names, PLANES[plane]) for case in cases]
    colours = dict(zip(names, LABEL_COLOURS, strict=False))
    patches = [Patch(color=colours[i], label=name) for i, name in names.items()]
    patches += [Patch(color=RED, label="difference")] * ("difference" in columns)
    per_line = min(len(patches), max(1, 32 * len(columns) // (6 + max(map(len, names.values())))))
    heights = [row["image"].shape[0] / row["image"].shape[1] * row["aspect"] for row in rows]
    height = 2.5 * sum(heights) + 0.25 * math.ceil(len(patches) / per_line) + 0.1 * len(rows) + 0.4  # inches
    figure = Figure((2.5 * len(columns) + 1.4, height), dpi=115, layout="compressed")
    grid = figure.subplots(len(rows), len(columns), squeeze=False, height_ratios=heights)
    for line, row in zip(grid, rows, strict=True):
        for axes, column in zip(line, columns, strict=True):
            _draw(axes, column, row, colours, window)
            axes.set_title(column if row is rows[0] else "", fontsize=11)
        line[0].set_ylabel(row["title"], rotation=0, ha="right", va="center", fontsize=9)
        mark = line[0].text(0.03, 0.5, "A" if plane == "sagittal" else "R", transform=line[0].transAxes)
        mark.set(color="white", fontsize=8, va="center", bbox={"color": "black", "pad": 1.5})
    figure.legend(handles=patches, loc="outside lower center", ncols=per_line, frameon=False)
    return _save(path, figure)


def dice_table(scores: Scores) -> str:
    """Return a Markdown table: the Dice of each label over the cases that have one, last that of the cases' means.

    `scores` comes from `rep3d.evaluation.scores.read_scores`. The deviation is that of the population.
    """
    values = table(scores, "dice")
    columns = dict(zip(next(iter(scores.values())), values.T, strict=True)) | {"mean": case_means(scores, "dice")}
    rows = []
    for name, column in columns.items():
        dice = column[np.isfinite(column)]
        cells = [f"{f(dice):.3f}" if dice.size else "-" for f in (np.mean, np.std, np.median, np.min)]
        rows.append([name, *cells, dice.size])
    return markdown_table(["label", "mean", "std", "median", "min", "cases"], rows) + "\n"


def write_report(
    folder: str | Path,
    *,
    title: str,
    facts: Mapping[str, str],
    table: str,
    pictures: Sequence[tuple[str, str | Path]],
    next_commands: Sequence[str],
) -> Path:
    """Write `report.html`, a page that needs no other file, into the folder and return its path.

    `facts` are names and values, `table` comes from `dice_table` or is empty, `pictures` are captions and PNG files,
    `next_commands` are what the reader may run next.
    """
    figures, proportion = "", 0.0  # of height to width, all pictures together
    for caption, picture in pictures:
        data = _existing(picture, "a PNG file").read_bytes()
        if not data.startswith(b"\x89PNG") or len(data) < 24:
            raise ValueError(f"{picture}: expected a PNG file, got one that starts with {data[:8]!r}")
        proportion += int.from_bytes(data[20:24], "big") / int.from_bytes(data[16:20], "big")
        source = "data:image/png;base64," + base64.b64encode(data).decode()
        figures += f'<figure><h2>{html.escape(caption)}</h2><img src="{source}" alt=""></figure>\n'
    lines = [line.strip("|").split("|") for line in html.escape(table).splitlines()]
    rows = ["".join(f"<td>{cell.strip()}</td>" for cell in line) for line in lines[:1] + lines[2:]]
    items = [f"<td>{html.escape(name)}</td><td>{html.escape(value)}</td>" for name, value in facts.items()]
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}
@media print {{ img {{ max-width: min(100%, {130 / max(proportion, 0.1):.0f}mm) }} }}
</style></head><body><h1>{html.escape(title)}</h1>
<div><table class="facts"><tr>{"<tr>".join(items)}</table><table class="dice"><tr>{"<tr>".join(rows)}</table></div>
{figures}<h2>Next</h2><pre>{html.escape(chr(10).join(next_commands))}</pre>
<footer>Research software, not a medical device.</footer></body></html>
"""
    return _save(Path(folder) / "report.html", page.encode())


STYLE = """
body { max-width: 60rem; margin: 1.5rem auto; padding: 0 1rem; color: #222; font: 15px/1.4 Arial, sans-serif }
h1 { font-size: 1.5em; margin: 0 0 .6em; border-bottom: 2px solid #0072B2 } h2 { font-size: 1em; margin: 1em 0 .3em }
div { display: flex; flex-wrap: wrap; gap: .5em 3em; align-items: flex-start } table { border-collapse: collapse }
td { padding: .15em .8em .15em 0; border-bottom: 1px solid #ddd; vertical-align: top; overflow-wrap: anywhere }
.facts { flex: 1 1 18rem } .facts td:first-child { white-space: nowrap }
.facts td:first-child, .dice tr:first-child, footer { color: #666 }
.dice td + td { text-align: right; padding: .15em 0 .15em .8em } .dice tr:last-child { font-weight: bold }
figure { margin: 0; break-inside: avoid } img { max-width: 100% } footer { margin-top: 1em; font-size: .9em }
pre { background: #f4f4f4; padding: .5em; margin: 0; white-space: pre-wrap } @page { size: A4; margin: 12mm }
@media print { body { font-size: 10px; margin: 0; padding: 0 } }"""


def _existing(path: str | Path, expected: str) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: expected {expected}, found no file")
    return Path(path)


def _save(path: str | Path, content: Figure | bytes) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        if isinstance(content, Figure):
            content.savefig(temporary, format="png")  # a Figure without pyplot draws with Agg
        else:
            temporary.write_bytes(content)
    return path


def _read_scalars(folder: Path) -> dict[str, list[Any]]:
    """Return the events (wall_time, step, value) of each tag, by ascending step."""
    files = [EventAccumulator(str(file), {SCALARS: 0}).Reload() for file in folder.rglob("*tfevents*")]  # 0: all
    if not files:
        raise FileNotFoundError(f"{folder}: expected a folder with TensorBoard event files, *tfevents*, found none")
    scalars: dict[str, list[Any]] = {}
    for tag in sorted({tag for file in files for tag in file.Tags()[SCALARS]}):
        parts = [file.Scalars(tag) for file in files if tag in file.Tags()[SCALARS]]
        for part in sorted(parts, key=lambda part: part[0].wall_time):
            part = sorted({event.step: event for event in part}.values(), key=lambda event: event.step)
            scalars[tag] = [event for event in scalars.get(tag, []) if event.step < part[0].step] + part
    return scalars


def _loss_tags(scalars: Mapping[str, Any]) -> list[str]:
    """Tags of losses, that of the training first; of equals the shortest: the name of a class makes a tag longer."""
    losses = [tag for tag in scalars if "loss" in tag.lower()]
    return sorted(losses, key=lambda tag: ("val" in tag.lower(), "train" not in tag.lower(), len(tag)))


def _iterations_per_epoch(loss: Sequence[Any], dice: Sequence[Any]) -> float:
    """Return how many iterations MONAI counts for the loss while it counts an epoch for the Dice, or 1 if not so."""
    times = [event.wall_time for event in loss]
    later = [event for event in dice if event.step > 0 and times and event.wall_time >= times[0]]
    ratios = [loss[bisect(times, event.wall_time) - 1].step / event.step for event in later]
    # The latest loss is never ahead of the Dice. Without a common ratio the steps count the same.
    common = max(ratios, default=1)
    return common if common > 1.5 and sum(ratio > 0.9 * common for ratio in ratios) > len(ratios) / 2 else 1


def _load_case(case: tuple, names: Mapping[int, str], axis: int) -> dict[str, Any]:
    """Return the case's slices by column, upright, the ratio of a pixel's height to its width, and the title."""
    volumes, spacing = _read_volumes(case)
    truth, prediction = volumes.get("truth"), volumes["prediction"]
    chosen = prediction if truth is None or not truth.any() else truth
    sides = [a for a in range(3) if a != axis]
    counts = np.count_nonzero(chosen, axis=tuple(sides))
    index = int(counts.argmax()) if counts.any() else len(counts) // 2
    title = f"{textwrap.fill(case[0], 20)}\nslice {index + 1} of {len(counts)}"
    if truth is not None:
        dice = _dice(truth, prediction, names)
        title += f"\nDice {np.mean(dice):.3f}" if dice else "\nno label in truth"
    slices = {column: np.take(volume, index, axis).T[::-1, ::-1] for column, volume in volumes.items()}
    return {**slices, "aspect": spacing[sides[1]] / spacing[sides[0]], "title": title}


def _read_volumes(case: tuple) -> tuple[dict[str, np.ndarray], Sequence[float]]:
    """The case's volumes by column, in RAS order on the grid of its image, and their spacing in millimetres."""
    name, image_path, *label_paths = case
    image, affine = _read_volume(image_path, f"the image of {name}")
    spacing = nib.affines.voxel_sizes(affine)
    corners = np.array([[0, 0, 0, 1], [*image.shape[:3], 1]]).T
    volumes = {"image": image}
    for column, path in zip(COLUMNS[1:], label_paths, strict=False):
        if path is None:
            continue
        volumes[column], own_affine = _read_volume(path, f"the {column} of {name}")
        if (volumes[column] != np.round(volumes[column])).any():
            raise ValueError(f"{path}: expected label ids, got numbers that are not whole")
        shift = np.abs((own_affine - affine) @ corners).max()  # millimetres
        if volumes[column].shape != image.shape or shift > min(spacing):
            grid = f"the volume and grid of {image_path}, {image.shape} in RAS order"
            raise ValueError(f"{path}: expected {grid}, got {volumes[column].shape}, up to {shift:.1f} mm away")
    return volumes, spacing


def _read_volume(path: str | Path, told: str) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (D, H, W), also of a file with a fourth axis of length 1, and affine, both in RAS order."""
    file: Any = nib.as_closest_canonical(nib.load(_existing(path, f"{told}, a NIfTI file")))
    array = np.asanyarray(file.dataobj)
    array = array[..., 0] if array.ndim == 4 and array.shape[3] == 1 else array
    if array.ndim != 3:
        raise ValueError(f"{path}: expected three axes, got the shape {array.shape}")
    return array, file.affine


def _dice(truth: np.ndarray, prediction: np.ndarray, names: Mapping[int, str]) -> list[float]:
    """Of each label that the truth contains."""
    pair = np.stack((truth, prediction))[:, (truth != 0) | (prediction != 0)]
    masks = [pair == i for i in names if i in pair[0]]
    return [2 * np.count_nonzero(mask.all(axis=0)) / np.count_nonzero(mask) for mask in masks]


def _draw(axes: Axes, column: str, row: dict[str, Any], colours: dict[int, str], window: Any) -> None:
    image, truth, aspect = row["image"], row.get("truth"), row["aspect"]
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    low, high = window or np.nanpercentile(image, (1, 99))
    hidden = truth is None and column in ("truth", "difference")
    axes.imshow(image, "gray", vmin=low, vmax=high, aspect=aspect, alpha=0.0 if hidden else 1.0)
    axes.autoscale(False)
    layers: list[tuple[Any, str, float]] = []  # mask, colour, opacity
    if hidden:
        axes.text(0.5, 0.5, "no truth", color=GRAY, ha="center", va="center", transform=axes.transAxes)
    elif column == "difference":
        layers = [(row["prediction"] != truth, RED, 0.5), (truth != 0, "white", 0.0)]
    elif column != "image":
        layers = [(row[column] == i, colours.get(i, GRAY), 0.4) for i in np.unique(row[column]) if i != 0]
    for mask, colour, opacity in layers:
        axes.imshow(mask[..., None] * to_rgba(colour, opacity), aspect=aspect)
        if mask.any():  # the border of background lets outlines close at the edge of the image
            extent = (-1, mask.shape[1], -1, mask.shape[0])
            axes.contour(np.pad(mask, 1), [0.5], colors=[colour], linewidths=1, extent=extent)
