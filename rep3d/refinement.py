"""What is taken off finished label maps, and added to them, label by label: the bundles' "refinement"."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from scipy import ndimage

from rep3d.io.geometry import voxel_ml

NEIGHBOURS = np.ones((3, 3, 3))  # of a voxel in a component: those at its corners, too


class Step(NamedTuple):
    """What becomes of one label, in this order.

    Args:
        largest: of its components the largest alone stays.
        smallest_ml: components of less volume go.
        filled: background that it encloses becomes this label.
    """

    largest: bool = False
    smallest_ml: float = 0.0
    filled: bool = False


def refine_label(labels: np.ndarray, label: int, step: Step, ml: float) -> np.ndarray:
    """A label map with one label refined.

    Args:
        labels: ids, (D, H, W), whole numbers; they are left as they are.
        label: the id.
        step: what becomes of it.
        ml: millilitres of a voxel.
    """
    box = ndimage.find_objects(labels == label)
    if not box:
        return labels
    refined = labels.copy()
    part = refined[box[0]]  # a view
    kept = _components(part == label, step, ml)
    part[(part == label) & ~kept] = 0
    if step.filled:
        part[ndimage.binary_fill_holes(kept) & (part == 0)] = label
    return refined


def _components(mask: np.ndarray, step: Step, ml: float) -> np.ndarray:
    components, _ = ndimage.label(mask, NEIGHBOURS)
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    stays = sizes * ml >= step.smallest_ml
    if step.largest:
        stays &= np.arange(len(sizes)) == sizes.argmax()
    stays[0] = False
    return stays[components]


class RefineLabelsd(MapTransform):
    """Refines label maps (1, D, H, W) label by label, in the order of their ids, as `refine_label` does.

    Args:
        keys: label maps, `MetaTensor`s.
        label_names: of the ids from 0 on.
        largest: names of labels whose largest component alone stays.
        smallest_ml: by name of a label, the millilitres that a component must have to stay.
        filled: names of labels whose holes are filled.
        chosen_on: digests of the images that it was chosen on, see `rep3d.evaluation.chosen_on`.

    Raises:
        ValueError: there is no label of that name.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_names: Sequence[str],
        largest: Sequence[str] = (),
        smallest_ml: Mapping[str, float] | None = None,
        filled: Sequence[str] = (),
        chosen_on: Sequence[str] = (),
    ) -> None:
        super().__init__(keys)
        self.chosen_on = tuple(chosen_on)
        least = smallest_ml or {}
        unknown = [name for name in (*largest, *least, *filled) if name not in label_names[1:]]
        if unknown:
            raise ValueError(
                f"refinement names the label {unknown[0]!r}, expected some of {', '.join(label_names[1:])}"
            )
        self.steps = {
            i: Step(name in largest, float(least.get(name, 0)), name in filled)
            for i, name in enumerate(label_names)
            if name in (*largest, *least, *filled)
        }

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        refined = dict(data)
        for key in self.key_iterator(refined):
            label_map = refined[key]
            labels = label_map[0].cpu().numpy()
            for label, step in self.steps.items():
                labels = refine_label(labels, label, step, voxel_ml(label_map.affine.cpu().numpy()))
            refined[key] = convert_to_dst_type(labels[None], label_map)[0]
        return refined
