"""Loss and metric of regions, and of label maps in which some voxels were not judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.handlers import from_engine
from monai.losses import DiceCELoss
from monai.networks import one_hot

from rep3d.data.regions import Regions, region_masks, scored_regions


class JudgedDiceCELoss(DiceCELoss):
    """MONAI's `DiceCELoss` over the voxels that were judged, of labels by softmax or of regions by sigmoid.

    Args:
        regions: ids by name, the order of the network's channels; None: each label by itself.
        ignored_label: id of the voxels that count neither way; None: all count.
        **others: as of `DiceCELoss`, but that it activates the logits and turns ids into masks itself.

    Raises:
        ValueError: `label_smoothing` for regions, which have none.
    """

    def __init__(self, regions: Regions | None = None, ignored_label: int | None = None, **others: Any) -> None:
        super().__init__(**others)
        self.regions = None if regions is None else list(regions.values())
        self.ignored_label = ignored_label
        if regions is not None and self.cross_entropy.label_smoothing:
            raise ValueError(f"label_smoothing is {self.cross_entropy.label_smoothing}, expected 0: regions take none")

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss.

        Args:
            logits: (B, K, D, H, W) of K labels or regions.
            labels: ids, (B, 1, D, H, W).
        """
        judged = torch.ones_like(labels) if self.ignored_label is None else (labels != self.ignored_label).to(labels)
        if self.regions is None:
            ids = labels * judged
            truth, probabilities = one_hot(ids, logits.shape[1]), logits.softmax(1)
            weight, smoothing = self.cross_entropy.weight, self.cross_entropy.label_smoothing
            by_voxel = F.cross_entropy(logits, ids[:, 0].long(), weight, reduction="none", label_smoothing=smoothing)[
                :, None
            ]
            counts = judged if weight is None else judged * weight[ids.long()]
        else:
            truth, probabilities = region_masks(labels, self.regions).to(logits), logits.sigmoid()
            weight = self.binary_cross_entropy.pos_weight
            positive = None if weight is None else weight.view(-1, 1, 1, 1)
            by_voxel = F.binary_cross_entropy_with_logits(logits, truth, reduction="none", pos_weight=positive)
            by_voxel, counts = by_voxel.mean(1, keepdim=True), judged
        cross_entropy = (by_voxel * judged).sum() / counts.sum().clamp(min=1e-6)
        dice = self.dice(probabilities * judged, truth * judged)
        return self.lambda_dice * dice + self.lambda_ce * cross_entropy


class ScoredMasks:
    """`output_transform` of a metric over what is scored, with voxels that nobody judged as background in both.

    Args:
        label_names: of the ids 0, 1, ...
        regions: ids by name; None: each label by itself.
        ignored_label: id of the voxels that count neither way.
    """

    def __init__(
        self, label_names: Sequence[str], regions: Regions | None = None, ignored_label: int | None = None
    ) -> None:
        self.regions = list(scored_regions(label_names, regions).values())
        self.ignored_label = ignored_label

    def __call__(self, output: Sequence[Mapping[str, torch.Tensor]]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Masks (R, D, H, W) of predictions and truths, from the label maps (1, D, H, W) "pred" and "label"."""
        predictions, truths = from_engine(["pred", "label"])(output)
        judged = [truth != self.ignored_label for truth in truths]
        return self._masks(predictions, judged), self._masks(truths, judged)

    def _masks(self, maps: Sequence[torch.Tensor], judged: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [region_masks(labels, self.regions) & mask for labels, mask in zip(maps, judged, strict=True)]
