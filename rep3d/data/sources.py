"""Training and validation cases of several data sets, and what another network predicted for them."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from rep3d.data.cases import POSTFIX, SUFFIXES, Item, file_name, first_file, item_name
from rep3d.data.dataset_json import check_all_judged
from rep3d.data.lists import load_datalist

logger = logging.getLogger(__name__)


def load_sources(
    dataset_dir: str | os.PathLike,
    more_data: Sequence[str | os.PathLike] | str | None,
    part: str,
    fold: int = 0,
    *,
    repeats: Sequence[int] | None = None,
    predictions: str | os.PathLike | None = None,
    most: int | None = None,
) -> list[Item]:
    """The pairs of one part of several data sets, each split as `load_datalist` splits it; every label is a structure.

    Args:
        dataset_dir: a data set's folder.
        more_data: folders of others; a single one may be given by itself.
        part: "training", "validation" or "test".
        fold: of every data set.
        repeats: how often the cases of dataset_dir and of each of more_data are listed; None: once.
        predictions: folder of label maps, NAME_seg.nii.gz as inference writes them, or NAME.nii.gz; a case of that name
            gets its path as "prediction".
        most: how many cases at most, the first of each data set in turn; None: all.

    Raises:
        ValueError: repeats of another length or below 1, most below 1, a label map that two cases share, or none for
            any case, a data set with voxels that nobody has judged; or as `load_datalist`.
        FileNotFoundError: as `load_datalist`, or predictions is no folder.
    """
    folders = [dataset_dir, *([more_data] if isinstance(more_data, str | os.PathLike) else more_data or [])]
    times = _checked_repeats(repeats, len(folders))
    if most is not None and most < 1:
        raise ValueError(f"the {part} part must have at least 1 case, got {most}")
    for folder in folders:
        check_all_judged(Path(folder))
    lists = [load_datalist(folder, part, fold) for folder in folders]
    if predictions is not None:
        _add_predictions([item for items in lists for item in items], Path(predictions))
    if len(folders) > 1:  # a name tells the cases of its own data set apart, not those of all
        lists = [[{key: value for key, value in item.items() if key != "case"} for item in items] for items in lists]
    if most is not None:
        lists = _first(lists, most)
    return [item for items, count in zip(lists, times, strict=True) for item in items * count]


def _checked_repeats(repeats: Sequence[int] | None, count: int) -> Sequence[int]:
    if repeats is None:
        return [1] * count
    is_list = isinstance(repeats, list | tuple) and len(repeats) == count
    if not is_list or not all(isinstance(n, int) and n >= 1 for n in repeats):
        raise ValueError(
            f"repeats is {repeats!r}, expected {count} whole number(s) from 1, of dataset_dir and of each of more_data"
        )
    return repeats


def _first(lists: Sequence[list[Item]], most: int) -> list[list[Item]]:
    """The first items of each list in turn, `most` together."""
    places = sorted((place, number) for number, items in enumerate(lists) for place in range(len(items)))[:most]
    return [[items[place] for place, own in places if own == number] for number, items in enumerate(lists)]


def _add_predictions(items: Sequence[Item], folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"predictions {str(folder)!r} does not exist, expected a folder of label maps")
    found: dict[Path, str] = {}
    for item in items:
        name = file_name(item_name(item))
        paths = [folder / f"{name}{postfix}{suffix}" for postfix in (POSTFIX, "") for suffix in SUFFIXES]
        path = next(filter(Path.is_file, paths), None)
        if path is None:
            continue
        if path in found:
            raise ValueError(f"{path}: of {found[path]} or of {first_file(item)}? expected one case of that name")
        found[path] = first_file(item)
        item["prediction"] = str(path)
    if not found:
        raise ValueError(
            f"predictions {str(folder)!r} holds no label map of any case, expected for example "
            f"{file_name(item_name(items[0]))}{POSTFIX}{SUFFIXES[0]}"
        )
    logger.info("predictions: of %d of %d cases", len(found), len(items))
