"""What a training of corrections minimizes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss


class CorrectionLoss(DiceCELoss):
    """Dice and cross-entropy of the whole answer, and the cross-entropy near the error that the newest prompt shows.

    Most voxels of a mask that is to be corrected are right. A network that repeats it has a small loss by the first two
    alone, and learns to do so before it learns to listen to prompts. Arguments are those of MONAI's `DiceCELoss`.
    """

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss.

        Args:
            logits: (B, 1, D, H, W).
            targets: (B, 2, D, H, W), see `SimulatedUser`: the truth, and where the error is that was shown.
        """
        truth, near = targets[:, :1], targets[:, 1:]
        by_voxel = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        by_case = (by_voxel * near).flatten(1).sum(1) / near.flatten(1).sum(1).clamp(min=1)
        return super().forward(logits, truth) + by_case.mean()
