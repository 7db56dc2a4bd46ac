"""Draw procedural anatomy ahead, to train a network that knows borders and no organ.

    python scripts/draw_anatomy.py --output_dir data/anatomy --cases 1000 --workers 2
    python scripts/draw_anatomy.py --output_dir data/anatomy --cases 12 --picture docs/images/anatomy.png

`output_dir` is then the `--dataset_dir` of a training. Run again it goes on, or draws more; a case is the same whatever
their number.
"""

from __future__ import annotations

from fire.decorators import SetParseFn

from rep3d.console.commands import run_command
from rep3d.datasets.decathlon import list_cases
from rep3d.datasets.drawing import write_anatomy
from rep3d.datasets.gallery import draw_gallery

SHOWN = 12


@SetParseFn(str, "output_dir", "picture")  # a folder may be called 2024_01_05
def main(
    output_dir: str, cases: int = 1000, seed: int = 0, size: int = 96, workers: int = 1, picture: str | None = None
) -> None:
    """Draw cases into a folder.

    Args:
        output_dir: receives imagesTr, labelsTr and dataset.json, in the Decathlon's layout.
        cases: number of volumes.
        seed: the same seed and size give the same volumes.
        size: voxels along each axis.
        workers: processes that draw.
        picture: PNG file that shows the first twelve.
    """
    folder = write_anatomy(output_dir, cases=cases, seed=seed, size=size, workers=workers)
    print(folder)
    if picture:
        print(draw_gallery(list_cases(folder)[:SHOWN], picture))


if __name__ == "__main__":
    run_command(main)
