"""Pictures and tables of receptive fields, masks, and the sizes of updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from rep3d.evaluation.kernels import KernelMask, by_distance, radius_of_share
from rep3d.evaluation.pictures import save_picture
from rep3d.files import write_csv

SHARES = (0.5, 0.95)


def show_receptive_fields(fields: Sequence[torch.Tensor], folder: Path) -> None:
    """receptive_fields.png, the central slices, and receptive_fields.csv, mean by distance from the centre."""
    figure = Figure(figsize=(3 * len(fields), 3.4), dpi=130, layout="constrained")
    for i, (axes, field) in enumerate(zip(figure.subplots(1, len(fields), squeeze=False)[0], fields, strict=True)):
        middle = field[field.shape[0] // 2]
        axes.imshow(middle.clamp(min=1e-6).log10(), cmap="viridis", vmin=-4, vmax=0)
        radii = ", ".join(f"{share:.0%} in {2 * radius_of_share(field, share) + 1:.0f}" for share in SHARES)
        axes.set_title(f"stage {i + 1}: {radii} voxels", fontsize=8)
        axes.set_axis_off()
    figure.suptitle("Effective receptive field, logarithmic; edges of the cubes that hold a share of it")
    save_picture(figure, folder / "receptive_fields.png")
    rows = [
        {"stage": i + 1, "distance": distance, "gradient": f"{value:.6g}"}
        for i, field in enumerate(fields)
        for distance, value in enumerate(by_distance(field))
    ]
    write_csv(folder / "receptive_fields.csv", rows)


def show_masks(masks: Sequence[KernelMask], folder: Path) -> None:
    """masks.png, central slices of P and of the channels' mean M, and masks.csv, both by distance from the centre."""
    figure = Figure(figsize=(1.6 * len(masks), 3.8), dpi=130, layout="constrained")
    rows = []
    for axes, (block, prior, mask) in zip(figure.subplots(2, len(masks), squeeze=False).T, masks, strict=True):
        mean, spread = mask.mean(0), mask.std(0, correction=0)
        for ax, values, name in zip(axes, (prior, mean), "PM", strict=True):
            ax.imshow(values[len(values) // 2], cmap="viridis", vmin=0, vmax=1)
            ax.set_title(f"{name}, {block.removeprefix('encoder.stages.')}", fontsize=8)
            ax.set_axis_off()
        profiles = zip(by_distance(prior), by_distance(mean), by_distance(spread), strict=True)
        for distance, (p, m, s) in enumerate(profiles):
            told = {"prior": f"{p:.6g}", "mask": f"{m:.6g}", "spread_of_channels": f"{s:.6g}"}
            rows.append({"block": block, "distance": distance, **told})
    save_picture(figure, folder / "masks.png")
    write_csv(folder / "masks.csv", rows)


def show_updates(profiles: Mapping[tuple[str, str], Sequence[float]], folder: Path) -> None:
    """updates.png and updates.csv: mean |change| of an element per step by its distance from the kernel's centre.

    Args:
        profiles: by optimizer and form of the block, see `rep3d.study.kernels`.
        folder: receives both files.
    """
    optimizers = list(dict.fromkeys(optimizer for optimizer, _ in profiles))
    figure = Figure(figsize=(5.5 * len(optimizers), 4), dpi=130, layout="constrained")
    panels = dict(zip(optimizers, figure.subplots(1, len(optimizers), squeeze=False)[0], strict=True))
    rows = []
    for (optimizer, form), profile in profiles.items():
        panels[optimizer].plot([value / profile[-1] for value in profile], marker=".", label=form)
        for distance, value in enumerate(profile):
            rows.append({"optimizer": optimizer, "form": form, "distance": distance, "update": f"{value:.6g}"})
    for optimizer, axes in panels.items():
        axes.set_title(optimizer)
        axes.set_yscale("log")
        axes.set_xlabel("distance from the kernel's centre, elements")
        axes.set_ylabel("mean |change| per step, in that of the corners")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    save_picture(figure, folder / "updates.png")
    write_csv(folder / "updates.csv", rows)
