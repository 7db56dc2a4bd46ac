"""Train, evaluate and show a small Rep3D network in a few minutes: what `make demo` runs.

    python scripts/demo.py                                # on a phantom that is made on the spot
    python scripts/demo.py --data Task04_Hippocampus      # on the hippocampus set of the Medical Segmentation Decathlon

Leaves runs/demo/report.html, with the Dice of held-out cases, the training curve and overlays.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fire.decorators import SetParseFn

from rep3d.console.commands import run_command
from rep3d.data.lists import load_datalist
from rep3d.datasets.phantom import write_decathlon
from rep3d.study.demo import Demo, claim_folder
from rep3d.study.run import RunFailed

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles/msd_hippocampus"
PHANTOM_CASES = 60


@SetParseFn(str, "data", "output", "network")  # a folder may be called 2024_01_05
def main(data: str = "", output: str = str(ROOT / "runs/demo"), steps: int = 1200, network: str = "") -> None:
    """Run the demo.

    Args:
        data: folder of MSD Task04_Hippocampus or of another set with its two labels; empty: a phantom.
        output: folder for weights, predictions and the report; what an earlier demo left there is replaced.
        steps: optimizer steps, rounded down to whole epochs; 1200 take a few minutes on two cores.
        network: config file to lay over the bundle's, for another network.
    """
    if data and not Path(data).is_dir():
        raise FileNotFoundError(f"data {data!r} does not exist, or is no folder")
    folder = Path(output).absolute()
    names = json.loads((BUNDLE / "configs/train.json").read_text(encoding="utf-8"))["label_names"]
    dataset = Path(data).absolute() if data else folder / "phantom"
    commands = next_commands(dataset, folder / "models/model.pt")
    demo = Demo(
        bundle=BUNDLE,
        labels=dict(enumerate(names[1:], 1)),
        dataset=dataset,
        source=data or f"a phantom of {PHANTOM_CASES} volumes, made by this demo",
        folder=folder,
        steps=steps,
        overlays=[Path(network).absolute()] if network else [],
        next_commands=commands,
        remedy=f"{commands[0]} --learning_rate 0.0005",
    )
    if data:
        load_datalist(dataset, "test")  # before an earlier demo is replaced
    locks = claim_folder(folder)
    if not data:
        write_decathlon(dataset, labels=demo.labels, count=PHANTOM_CASES)
    try:
        table = demo.run()
    except RunFailed as failed:
        raise SystemExit(f"the demo stopped: {failed}") from None
    cases = len(load_datalist(dataset, "test"))
    print(f"\nDice of {cases} held-out cases\n{table}\nReport: {folder / 'report.html'}\n\nTry next:")
    print("\n".join(f"  {command}" for command in commands))
    locks.release()


def next_commands(dataset: Path, weights: Path) -> list[str]:
    """What to try after the demo, from any folder."""
    run, bundle = f'"{sys.executable}" -m monai.bundle run', f'--bundle_root "{BUNDLE}"'
    train, infer = (f'--config_file "{BUNDLE / "configs" / name}"' for name in ("train.json", "inference.json"))
    return [
        f'{run} training {bundle} {train} --dataset_dir "{dataset}"',
        f'{run} evaluating {bundle} {infer} --checkpoint "{weights}" --dataset_dir SCANS',
        f'"{sys.executable}" -m tensorboard.main --logdir "{weights.parents[1]}"',
    ]


if __name__ == "__main__":
    run_command(main)
