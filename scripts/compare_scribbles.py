"""Compare the scribbles of our simulated user with those that three people drew, on the same masks.

    python scripts/compare_scribbles.py --medscribble_dir ScribblePrompt/MedScribble

takes the folder `MedScribble` of https://github.com/halleewong/ScribblePrompt and prints a table in Markdown.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from fire.decorators import SetParseFn
from scipy import ndimage

from rep3d.console.commands import run_command
from rep3d.console.tables import markdown_table
from rep3d.interactive.users import first_prompt

TOUCHING = np.ones((3, 3), dtype=bool)
MEASURES = (
    "length / root of the label's area",
    "depth / largest depth",
    "strokes that touch the border, %",
    "pixels inside the label, %",
)


@SetParseFn(str, "medscribble_dir")
def main(medscribble_dir: str, seed: int = 0) -> None:
    """Print medians, and the middle half of all strokes.

    Args:
        medscribble_dir: with a folder for each image, of seg.npy and scribble_*.npy.
        seed: of our scribbles, of which each image gets as many as people drew on it.
    """
    masks = sorted(Path(medscribble_dir).rglob("seg.npy"))
    if not masks:
        raise FileNotFoundError(f"medscribble_dir {medscribble_dir!r} holds no seg.npy")
    rng = np.random.default_rng(seed)
    people, ours = [], []
    for path in masks:
        label = np.load(path) > 0.5
        drawn = [stroke for file in sorted(path.parent.glob("scribble_*.npy")) for stroke in _strokes(np.load(file)[0])]
        people += [_measures(stroke, label) for stroke in drawn]
        ours += [_measures(_simulated(label, rng), label) for _ in drawn]
    rows = [
        [measure, *(_told(np.array(strokes)[:, index]) for strokes in (people, ours))]
        for index, measure in enumerate(MEASURES)
    ]
    print(f"{len(masks)} image(s), {len(people)} strokes\n")
    print(markdown_table(["", "people", "simulated"], rows))


def _strokes(scribble: np.ndarray) -> Iterator[np.ndarray]:
    labels, count = ndimage.label(scribble > 0.5, TOUCHING)
    for number in range(1, count + 1):
        stroke = labels == number
        if stroke.sum() > 3:  # others are points
            yield stroke


def _simulated(label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A scribble on a slice of a volume whose slices are all the same."""
    while True:
        prompt = first_prompt(np.repeat(label[..., None], 3, axis=2), (1.0, 1.0, 1.0), rng, {"scribble": 1.0})
        assert prompt is not None
        voxels = np.round(prompt.positions).astype(int)
        if not np.ptp(voxels[:, 2]):
            stroke = np.zeros_like(label)
            stroke[voxels[:, 0], voxels[:, 1]] = True
            if stroke.sum() > 3:
                return stroke


def _measures(stroke: np.ndarray, label: np.ndarray) -> tuple[float, ...]:
    places, depth = np.argwhere(stroke), ndimage.distance_transform_edt(label)
    length = np.hypot(*np.ptp(places, axis=0)) / np.sqrt(label.sum())
    inside = float(label[stroke].mean())
    return length, float(depth[stroke].mean() / depth.max()), 100.0 * (depth[stroke].min() <= 1), 100 * inside


def _told(values: np.ndarray) -> str:
    if set(values) <= {0.0, 100.0}:
        return f"{values.mean():.0f}"
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    run_command(main)
