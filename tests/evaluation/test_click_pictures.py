"""Strips show truth, mask and every kind of prompt."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pytest
import torch

from rep3d.evaluation.click_pictures import click_strip
from rep3d.interactive.prompts import box, lasso, point, scribble

SPACING = (1.0, 1.5, 3.0)


def states() -> list:
    truth = torch.zeros(30, 24, 12, dtype=torch.bool)
    truth[8:20, 6:16, 3:9] = True
    prompts = [
        point((12, 10, 5), SPACING),
        scribble([(i, 9, 5) for i in range(10, 16)], SPACING, positive=False),
        box((8, 6, 5), (19, 15, 5), SPACING),
        lasso([(8, 6, 5), (19, 6, 5), (14, 15, 5)], SPACING, positive=False),
    ]
    return [truth, *[(prompts[:count], truth.roll(4 - count, 0)) for count in range(5)]]


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_strip_has_a_column_per_state(tmp_path: Path, plane: str) -> None:
    truth, *shown = states()
    path = click_strip(torch.rand(truth.shape), SPACING, truth, shown, tmp_path / "strips/a.png", plane=plane)
    wide = matplotlib.image.imread(path)
    narrow = matplotlib.image.imread(
        click_strip(torch.rand(truth.shape), SPACING, truth, shown[:2], tmp_path / "b.png", plane=plane)
    )
    assert wide.shape[1] > 2 * narrow.shape[1]


def test_prompts_are_drawn_in_colours_of_their_own(tmp_path: Path) -> None:
    truth, *shown = states()
    pixels = matplotlib.image.imread(click_strip(torch.zeros(truth.shape), SPACING, truth, shown, tmp_path / "a.png"))

    def has(colour: str) -> bool:
        wanted = torch.tensor([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        return bool(((torch.from_numpy(pixels[..., :3].copy()) - wanted).abs() < 0.02).all(-1).sum() > 20)

    assert has("#F0E442") and has("#D55E00")


def test_an_unknown_plane_is_refused(tmp_path: Path) -> None:
    truth, *shown = states()
    with pytest.raises(ValueError, match="'oblique'"):
        click_strip(torch.rand(truth.shape), SPACING, truth, shown, tmp_path / "a.png", plane="oblique")
