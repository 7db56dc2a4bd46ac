"""A simulated user who brings one scan to the Dice that is aimed at, as a session of the app would be used."""

from __future__ import annotations

import torch

from rep3d.evaluation.clicks import MOST, deepest_user, dice
from rep3d.interactive.editing import LabelEdit
from rep3d.interactive.scene import Scene
from rep3d.study.annotation import AIM, Scan

NO_USE = 0.3  # Dice below which a proposal is discarded: a first click from nothing achieves as much


def annotate(case: str, truth: torch.Tensor, proposal: torch.Tensor | None, scene: Scene) -> tuple[Scan, torch.Tensor]:
    """Accept a proposal or discard it, and click on the deepest voxel of the largest error as long as it is needed.

    Args:
        case: the scan's name.
        truth: (D, H, W) of bool, not empty.
        proposal: likewise; None: there is none.
        scene: the scan, and what answers.

    Returns:
        What it took, and the mask.
    """
    edit, proposed = LabelEdit(truth.shape), None if proposal is None else dice(proposal, truth)
    discarded = proposal is not None and proposed is not None and bool(proposal.any()) and proposed < NO_USE
    if proposal is not None and not discarded:
        edit.paint(proposal)
    reached = [dice(edit.mask, truth)]
    while reached[-1] < AIM and len(reached) - 1 + discarded < MOST:
        prompt = deepest_user(truth, edit.mask, scene.spacing, edit.prompts)
        assert prompt is not None, "a mask below the aim has errors"
        edit.show([prompt], scene)
        while edit.is_coarse:
            edit.refine(scene)
        reached.append(dice(edit.mask, truth))
    return Scan(case, proposed, discarded, reached), edit.mask
