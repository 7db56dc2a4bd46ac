"""Regions, unions of labels that a network learns and is judged by, and voxels that nobody has judged.

Without regions every label but the background is one by itself. Label maps hold ids all the same: a network of regions
paints one region after another, each with the id that the class order names, so that later ones lie over earlier ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch

IGNORE = "ignore"  # the name of the label of voxels that nobody has judged

Regions = Mapping[str, Sequence[int]]  # ids by name


def check_label_names(label_names: Sequence[str]) -> None:
    """Raise ValueError where two ids have one name: under it only one of them would be scored and measured."""
    twice = [name for name, count in Counter(label_names).items() if count > 1]
    if twice:
        raise ValueError(
            f"label_names has {twice[0]!r} for {label_names.count(twice[0])} ids, expected a name for each; ids that "
            "are learned together are a region"
        )


def scored_regions(label_names: Sequence[str], regions: Regions | None = None) -> dict[str, list[int]]:
    """What is scored, by name: the regions, or each label but the background.

    Raises:
        ValueError: as `check_label_names`.
    """
    check_label_names(label_names)
    if regions is not None:
        return {name: list(ids) for name, ids in regions.items()}
    return {name: [i] for i, name in enumerate(label_names) if i > 0}


def score_names(label_names: Sequence[str], regions: Regions | None = None) -> list[str]:
    """The background, then what is scored."""
    return [label_names[0], *scored_regions(label_names, regions)]


def count_outputs(label_names: Sequence[str], regions: Regions | None = None) -> int:
    """The channels that a network gives: one for each label, or for each region."""
    return len(label_names if regions is None else regions)


def count_ids(label_names: Sequence[str], ignored_label: int | None = None) -> int:
    """How many ids label maps hold, from 0."""
    return len(label_names) + (ignored_label is not None)


def region_masks(labels: torch.Tensor, regions: Sequence[Sequence[int]]) -> torch.Tensor:
    """Where the regions are.

    Args:
        labels: ids, (..., 1, D, H, W).
        regions: the ids of each.

    Returns:
        (..., R, D, H, W), truth values.
    """
    return torch.cat([torch.isin(labels, torch.as_tensor(ids).to(labels)) for ids in regions], dim=-4)


def paint(masks: torch.Tensor, class_order: Sequence[int]) -> torch.Tensor:
    """A label map (D, H, W) of uint8 from the masks (R, D, H, W) of regions, each painted over the ones before.

    Raises:
        ValueError: another number of ids than of masks.
    """
    if len(masks) != len(class_order):
        raise ValueError(f"regions_class_order has {len(class_order)} id(s), the network gives {len(masks)} regions")
    labels = torch.zeros(masks.shape[1:], dtype=torch.uint8, device=masks.device)
    for mask, label in zip(masks, class_order, strict=True):
        labels[mask] = label
    return labels


def check_judging(
    label_names: Sequence[str],
    regions: Regions | None,
    class_order: Sequence[int] | None,
    ignored_label: int | None,
) -> None:
    """Check the options "regions", "regions_class_order" and "ignored_label" of a data set's file.

    Raises:
        ValueError: ids that are no labels, an order by which a label map would show other regions than were found, or
            an ignored label that is not the id behind the others.
    """
    count = len(label_names)
    if ignored_label not in (None, count):
        raise ValueError(f"ignored_label is {ignored_label!r}, expected {count}, the id behind those of label_names")
    if (regions is None) != (class_order is None):
        raise ValueError("regions and regions_class_order go together, expected both or neither")
    if regions is None or class_order is None:
        return
    for name, ids in regions.items():
        if not ids or not set(ids) <= set(range(1, count)) or len(set(ids)) < len(ids):
            raise ValueError(f"region {name!r} is {ids!r}, expected some of the ids 1 to {count - 1}")
    if len(set(class_order)) < len(class_order) or len(class_order) != len(regions):
        raise ValueError(f"regions_class_order is {class_order!r}, expected {len(regions)} ids, one of each region")
    for label in range(1, count):
        inside = [label in ids for ids in regions.values()]
        painted = next((i for i, is_in in zip(reversed(class_order), reversed(inside), strict=True) if is_in), 0)
        if [painted in ids for ids in regions.values()] != inside:
            raise ValueError(
                f"regions_class_order is {class_order!r}, by which label {label} would be written as {painted}, which "
                "lies in other regions: expected the largest region first, and an id that is in no smaller one"
            )
