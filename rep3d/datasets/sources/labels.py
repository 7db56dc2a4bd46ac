"""What a data set's own file tells of its labels: names by id, regions, and the id of voxels nobody has judged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rep3d.data.regions import IGNORE

IDS = range(256)  # of labels: the label maps that bundles write have one byte


class ToldLabels(NamedTuple):
    """What a data set's own file tells of its labels.

    Args:
        names: by id, the background among them.
        regions: unions of ids, by name; None where each label is one by itself.
        class_order: for each region the id that label maps show it by.
        ignored: the id of voxels that nobody has judged.
    """

    names: dict[int, str]
    regions: dict[str, list[int]] | None = None
    class_order: list[int] | None = None
    ignored: int | None = None


def read_labels(path: Path, labels: Any, class_order: Any = None) -> ToldLabels | None:
    """What {"1": name}, the Decathlon's way, or {name: 1}, that of nnU-Net's version 2, tells of labels.

    In the latter way several ids, {name: [1, 2]}, are a region, and "ignore" is the label of voxels nobody has judged.

    Args:
        path: of the file, for messages.
        labels: None: nothing is told.
        class_order: of regions, nnU-Net's "regions_class_order".

    Raises:
        ValueError: they are neither; or regions without an order, or one by which they cannot be told apart.
    """
    if labels is None:
        return None
    if not isinstance(labels, Mapping):
        raise ValueError(f'{path}: "labels" is {labels!r}, expected {{"1": name}} or {{name: 1}}')
    pairs = [(key, value) if str(key).isdecimal() else (value, key) for key, value in labels.items()]
    named = [(ids if isinstance(ids, list) else [ids], str(name).strip()) for ids, name in pairs]
    wrong = [f"{name}: {i}" for ids, name in named for i in ids if not str(i).isdecimal() or int(i) not in IDS]
    if wrong:
        raise ValueError(f'{path}: "labels" has {wrong[0]}, expected whole numbers from 0 to {IDS[-1]}')
    ids_of = {name: [int(i) for i in ids] for ids, name in named}
    single = [ids[0] for ids in ids_of.values() if len(ids) == 1]
    if len({name.lower() for name in ids_of}) < len(named) or len(set(single)) < len(single):
        raise ValueError(f'{path}: "labels" has an id or a name twice: {dict(labels)}')
    ignored = [ids_of.pop(name) for name in list(ids_of) if name.lower() == IGNORE]
    if any(len(ids) != 1 or ids == [0] or ids[0] in sum(ids_of.values(), []) for ids in ignored):
        raise ValueError(f'{path}: "labels" has {IGNORE}: {ignored[0]}, expected an id of its own')
    names = {ids[0]: name for name, ids in ids_of.items() if len(ids) == 1}
    found = ToldLabels({0: "background"} | dict(sorted(names.items())), ignored=ignored[0][0] if ignored else None)
    if all(len(ids) == 1 for ids in ids_of.values()):
        return found
    return _with_regions(path, found, {name: ids for name, ids in ids_of.items() if ids != [0]}, class_order)


def _with_regions(path: Path, labels: ToldLabels, regions: dict[str, list[int]], class_order: Any) -> ToldLabels:
    """The labels with regions; an id that has no name by itself is called after its number."""
    if not isinstance(class_order, list) or not all(isinstance(i, int) for i in class_order):
        raise ValueError(
            f'{path}: "labels" has regions, and "regions_class_order" is {class_order!r}, expected an id for each'
        )
    ids = sorted({i for of_region in regions.values() for i in of_region})
    if not set(class_order) <= set(ids):
        raise ValueError(f'{path}: "regions_class_order" is {class_order!r}, expected ids of its regions: {ids}')
    names = {0: labels.names[0]} | {i: labels.names.get(i, f"label {i}") for i in ids}
    return labels._replace(names=names, regions=regions, class_order=class_order)
