"""Evaluate clicks with a simulated user on held-out cases, ours and others'.

    python scripts/evaluate_interactive.py --dataset_dir Task04_Hippocampus --labels together
    python scripts/evaluate_interactive.py --dataset_dir left_atrium --part all --methods ours,graph_cut
    python scripts/evaluate_interactive.py --dataset_dir 3D_val_npz --protocol cvpr25
    python scripts/evaluate_interactive.py --dataset_dir left_atrium --part all --methods ours --protocol planes

Leaves summary.md, summary.json, clicks.csv and clicks.png. Called again, it goes on where it was interrupted.
"""

from __future__ import annotations

from pathlib import Path

from fire.decorators import SetParseFn
from monai.utils import ensure_tuple

from rep3d.console.commands import run_command
from rep3d.evaluation.click_cases import list_cases, named_labels
from rep3d.evaluation.montage import PLANES
from rep3d.locks import FolderLocks
from rep3d.shipped import find_weights
from rep3d.study.interactive import (
    BASELINES,
    METHODS,
    OURS,
    USERS,
    Weights,
    choose,
    evaluate_challenge,
    evaluate_clicks,
    evaluate_planes,
)

BUNDLE = str(Path(__file__).resolve().parents[1] / "bundles/interactive")
PATHS = ("dataset_dir", "output_dir", "bundle", "weights", "network", "automatic", "automatic_weights", "deepedit")
CLICKS, CVPR25, THREE_PLANES = "clicks", "cvpr25", "planes"


@SetParseFn(str, *PATHS)  # a folder may be called 2024_01_05
def main(
    dataset_dir: str,
    output_dir: str = "runs/interactive",
    methods: str | tuple[str, ...] = (OURS, *BASELINES),
    bundle: str = BUNDLE,
    weights: str = "",
    network: str = "",
    automatic: str = "",
    automatic_weights: str = "",
    deepedit: str = "",
    labels: str | int | tuple[int, ...] = (),
    part: str = "test",
    fold: int = 0,
    cases: int = 0,
    seed: int = 0,
    user: str = "deepest",
    strips: int = 0,
    plane: str = "axial",
    protocol: str = CLICKS,
) -> None:
    """Evaluate, and print the tables.

    Args:
        dataset_dir: a data set as the bundles take it; with --protocol cvpr25 a folder of the challenge's .npz cases.
        output_dir: receives everything.
        methods: some of ours, graph_cut, graph_cut_near, region_growing, automatic, ours_from_automatic and deepedit.
        bundle: folder of the bundle of ours.
        weights: of ours; empty: the bundle's.
        network: config file with "network_def", in place of the bundle's inference.json.
        automatic: folder of a bundle, whose automatic segmentations are scored and started from.
        automatic_weights: of that bundle; empty: its own.
        deepedit: weights of scripts/train_deepedit.py.
        labels: ids, of which each is segmented by itself; empty: all of them; together: all as one.
        part: of the data set: test, validation, training or all.
        fold: of the data set's splits.
        cases: so many, drawn at random; 0: all.
        seed: of that draw, and of a mixed user.
        user: deepest clicks the deepest voxel of the largest error; mixed draws prompts of all kinds.
        strips: draws the first clicks of so many cases.
        plane: of the strips: axial, coronal or sagittal.
        protocol: clicks; cvpr25; or planes, one scribble in each plane at 1x1x1 and 0.7x0.7x5 mm.
    """
    names = ensure_tuple(methods.split(",") if isinstance(methods, str) else methods)
    choices = (
        ("protocol", protocol, (CLICKS, CVPR25, THREE_PLANES)),
        ("user", user, USERS),
        ("plane", plane, tuple(PLANES)),
    )
    for name, value, known in choices:
        if value not in known:
            raise ValueError(f"{name} is {value!r}, expected one of {', '.join(known)}")
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise ValueError(f"methods names {unknown[0] if unknown else 'none'!r}, expected some of {', '.join(METHODS)}")
    if cases < 0 or strips < 0:
        raise ValueError(f"cases is {cases} and strips {strips}, expected 0 or more")
    files = Weights(
        config=Path(network or f"{bundle}/configs/inference.json"),
        weights=Path(weights) if weights else find_weights(bundle),
        automatic=Path(automatic) if automatic else None,
        automatic_weights=Path(automatic_weights) if automatic_weights else None,
        deepedit=Path(deepedit) if deepedit else None,
    )
    folder = Path(dataset_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"dataset_dir {dataset_dir!r} does not exist, or is no folder")
    locks = FolderLocks([output_dir], "evaluation")
    try:
        if protocol == CVPR25:
            paths = sorted(folder.glob("*.npz"))
            if not paths:
                raise FileNotFoundError(f"dataset_dir {dataset_dir!r} holds no .npz cases")
            told = evaluate_challenge(
                choose(paths, cases, seed), names, files, Path(output_dir), source=folder.resolve()
            )
        else:
            chosen = choose(list_cases(folder, part, fold), cases, seed)
            named = named_labels(folder, labels if isinstance(labels, str) else ensure_tuple(labels))
            output = Path(output_dir)
            if protocol == THREE_PLANES:
                told = evaluate_planes(chosen, named, names, files, output)
            else:
                source = folder.resolve()
                told = evaluate_clicks(
                    chosen, named, names, files, output, source=source, user=user, seed=seed, strips=strips, plane=plane
                )
    finally:
        locks.release()
    print(told)


if __name__ == "__main__":
    run_command(main)
