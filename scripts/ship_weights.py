"""Make trained weights those that ship with a bundle, and write down what they are.

    python scripts/ship_weights.py msd_hippocampus --weights bundles/msd_hippocampus/models/trained/model.pt
    python scripts/ship_weights.py msd_hippocampus --scores bundles/msd_hippocampus/eval

The first writes models/model.pt of the bundle, in half precision; evaluate that file, then let the second take its
scores. Both write to configs/weights; what else stands there (rep3d.datasets.rendering.WEIGHTS) is written by hand.
"""

from __future__ import annotations

import json
from pathlib import Path

from fire.decorators import SetParseFn

from rep3d.console.commands import run_command
from rep3d.evaluation.scores import means, read_scores, table
from rep3d.files import write_text
from rep3d.shipping import ship_weights

ROOT = Path(__file__).resolve().parents[1]


@SetParseFn(str, "bundle", "weights", "scores", "root")  # a folder may be called 2024_01_05
def main(bundle: str, weights: str = "", scores: str = "", logit_shift: float = 0.0, root: str | Path = ROOT) -> None:
    """Update configs/weights/BUNDLE.json, which `make render` takes to the bundle.

    Args:
        bundle: its name.
        weights: a model.pt of its training.
        scores: the folder of its evaluation.
        logit_shift: with weights: is added to the network's one logit, see rep3d.shipping.
        root: the folder that holds configs and bundles.
    """
    if not weights and not scores:
        raise ValueError("neither --weights nor --scores is given: nothing to do")
    path = Path(root) / "configs/weights" / f"{bundle}.json"
    facts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if weights:
        facts.pop("dice", None)  # of the weights before
        facts |= ship_weights(Path(root) / "bundles" / bundle, weights, logit_shift)
    if scores:
        cases = read_scores(scores)
        labels = next(iter(cases.values()))
        dice = zip([*labels, "mean"], means(table(cases, "dice")), strict=True)
        facts["dice"] = {label: round(value, 4) for label, value in dice}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(facts, indent=4))
    print(f"{path}: written; run scripts/render_bundles.py")


if __name__ == "__main__":
    run_command(main)
