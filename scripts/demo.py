"""Train, evaluate and show a small Rep3D network in a few minutes: what `make demo` runs.

    python scripts/demo.py                                # on a phantom that is made on the spot
    python scripts/demo.py --data Task04_Hippocampus      # on the hippocampus set of the Medical Segmentation Decathlon

Leaves runs/demo/report.html, with the Dice of held-out cases, the training curve and overlays.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import fire
from fire.decorators import SetParseFn

from rep3d.console.errors import show_errors_briefly
from rep3d.data.cases import case_names, file_name
from rep3d.data.lists import load_datalist
from rep3d.datasets.phantom import write_decathlon
from rep3d.evaluation.report import dice_table, divergence, overlay_montage, training_curve, write_report
from rep3d.evaluation.scores import read_scores
from rep3d.locks import FolderLocks, lock_file

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles/msd_hippocampus"
PHANTOM_CASES = 60
SHOWN_CASES = 3
EPOCHS = 6  # at most, with a validation after each


@SetParseFn(str, "data", "output", "network")  # a folder may be called 2024_01_05
def main(data: str = "", output: str = str(ROOT / "runs/demo"), steps: int = 1200, network: str = "") -> None:
    """Run the demo.

    Args:
        data: folder of MSD Task04_Hippocampus or of another set with its two labels; empty: a phantom.
        output: folder for weights, predictions and the report; what an earlier demo left there is replaced.
        steps: optimizer steps, rounded down to whole epochs; 1200 take a few minutes on two cores.
        network: config file to lay over the bundle's, for another network.
    """
    if steps < 1:
        raise SystemExit(f"steps is {steps}, expected at least 1")
    epochs = min(EPOCHS, steps)
    steps = steps // epochs * epochs
    folder = Path(output).absolute()
    labels = json.loads((BUNDLE / "configs/train.json").read_text(encoding="utf-8"))["label_names"]
    dataset = Path(data).absolute() if data else folder / "phantom"
    if data:
        load_datalist(dataset, "test")  # before an earlier demo is replaced
    locks = _clear(folder)
    if not data:
        write_decathlon(dataset, labels=dict(enumerate(labels[1:], 1)), count=PHANTOM_CASES)
    test_cases = load_datalist(dataset, "test")

    options = {
        "dataset_dir": dataset,
        "bundle_root": BUNDLE,
        "ckpt_dir": folder / "models",
    }
    overlays = [network] if network else []
    training = {"output_dir": folder / "training", "epochs": epochs, "val_interval": 1}
    training["train#trainer#epoch_length"] = steps // epochs
    source = str(data) if data else f"a phantom of {PHANTOM_CASES} volumes, made by this demo"
    weights = folder / "models/model.pt"
    commands = next_commands(dataset, weights)
    start = time.perf_counter()
    try:
        run_bundle("training", ["train.json"], overlays, options | training)
    except SystemExit as stop:
        raise SystemExit(report_divergence(folder, source, f"{commands[0]} --learning_rate 0.0005") or stop) from None
    seconds = time.perf_counter() - start
    run_bundle("evaluating", ["train.json", "evaluate.json"], overlays, options | {"output_dir": folder / "evaluation"})
    # The held-out cases: a Decathlon set's own test images have no labels to compare with.
    images = [{key: item[key] for key in ("image", "case") if key in item} for item in test_cases]
    inference = {"output_dir": folder / "predictions", "dataset#data": images}
    run_bundle("evaluating", ["inference.json"], overlays, options | inference)

    table = dice_table(read_scores(folder / "evaluation"))
    curve = training_curve(folder / "training/tensorboard", folder / "training_curve.png")
    names = dict(enumerate(labels[1:], 1))
    montage = overlay_montage(_shown(test_cases, folder / "predictions"), names, folder / "overlays.png")
    page = write_report(
        folder,
        title="Rep3D demo",
        facts={
            "Data": source,
            "Training": f"{steps} steps in {seconds / 60:.1f} minutes",
            "Scored on": f"{len(test_cases)} cases that neither training nor the choice of weights has seen",
            "Weights": str(weights),
        },
        table=table,
        pictures=[("Training", curve), ("Image, truth and prediction of held-out cases", montage)],
        next_commands=commands,
    )
    print(f"\nDice of {len(test_cases)} held-out cases\n{table}\nReport: {page}\n\nTry next:")
    print("\n".join(f"  {command}" for command in commands))
    locks.release()


def run_bundle(run_id: str, configs: list[str], overlays: list[str], options: dict) -> None:
    """`python -m monai.bundle run` of the small bundle, in a process of its own."""
    files = [str(BUNDLE / "configs" / name) for name in configs] + [str(Path(name).absolute()) for name in overlays]
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", run_id, "--config_file", str(files)]
    command += [text for name, value in options.items() for text in (f"--{name}", str(value))]
    if subprocess.run(command, check=False).returncode:
        raise SystemExit(f"the demo stopped: {run_id} failed, see above")


def report_divergence(folder: Path, source: str, remedy: str) -> str:
    """Leave a report that says that the training diverged, and return that in one line; empty where it did not."""
    logs = folder / "training/tensorboard"
    told = divergence(logs) if any(logs.glob("*tfevents*")) else ""
    if not told:
        return ""
    page = write_report(
        folder,
        title="Rep3D demo: the training diverged",
        facts={"Data": source, "Training": told, "Scored on": "nothing: there are no weights to show"},
        table="",
        pictures=[("Training", training_curve(logs, folder / "training_curve.png"))],
        next_commands=[remedy],
    )
    return f"the demo stopped: the training {told}. Report: {page}"


def next_commands(dataset: Path, weights: Path) -> list[str]:
    """What to try after the demo, from any folder."""
    run, bundle = f'"{sys.executable}" -m monai.bundle run', f'--bundle_root "{BUNDLE}"'
    train, infer = (f'--config_file "{BUNDLE / "configs" / name}"' for name in ("train.json", "inference.json"))
    return [
        f'{run} training {bundle} {train} --dataset_dir "{dataset}"',
        f'{run} evaluating {bundle} {infer} --checkpoint "{weights}" --dataset_dir SCANS',
        f'"{sys.executable}" -m tensorboard.main --logdir "{weights.parents[1]}"',
    ]


def _shown(items: list[dict], predictions: Path) -> list[tuple[str, str, str, str]]:
    named = list(zip(case_names(items), items, strict=True))
    return [
        (case, item["image"], item["label"], str(predictions / f"{file_name(case)}_seg.nii.gz"))
        for case, item in named[:SHOWN_CASES]
    ]


def _clear(folder: Path) -> FolderLocks:
    """Remove an earlier demo, and nothing else; the folder is then this demo's."""
    mark = folder / ".rep3d_demo"
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        raise SystemExit(f"{folder} holds files that no demo left there: give another folder, --output DIR")
    try:
        locks = FolderLocks([folder], "demo")
    except ValueError as error:
        raise SystemExit(str(error)) from None
    mark.touch()
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path not in (mark, lock_file(folder, "demo")):
            path.unlink()
    return locks


if __name__ == "__main__":
    show_errors_briefly()
    fire.Fire(main)
