"""Names of labels, regions or channels that stand in other places than they should."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rep3d.data.cases import ONE_CHANNEL
from rep3d.data.dataset_json import FILE, channel_key, described, is_unjudged, named_places, told_channels
from rep3d.data.regions import Regions


def check_names(
    folder: Path,
    label_names: Sequence[str] = (),
    channel_names: Sequence[str] = ONE_CHANNEL,
    regions: Regions | None = None,
) -> None:
    """Refuse a data set whose `dataset.json` has a label, or one of several channels, of a bundle in another place.

    So is one whose regions are of other ids than the bundle's. Names that are not the bundle's say nothing.

    Args:
        label_names: the bundle's, of the ids from 0 on; empty: they are not looked at.
        channel_names: the bundle's, in their order.
        regions: the bundle's, see `rep3d.data.regions`.

    Raises:
        ValueError: names what stands elsewhere; or voxels that nobody has judged have the id of a label.
    """
    path, dataset = folder / FILE, described(folder)
    _check_places(path, "labels", dataset.get("labels"), label_names)
    _check_regions(path, dataset.get("labels"), regions or {})
    if len(channel_names) > 1:
        _check_places(path, channel_key(dataset), dict(enumerate(told_channels(folder, dataset))), channel_names)


def displaced(names: Sequence[str], known: Mapping[int, str]) -> str:
    """Which name stands at another place than it is known to have, in words, or an empty text.

    Args:
        names: as somebody gives them, in their order.
        known: by place; other names say nothing.
    """
    for place, name in enumerate(names):
        places = [i for i, text in known.items() if text.strip().casefold() == name.strip().casefold()]
        if places and place not in places:
            return f"with {name!r} as {place}, expected it as {places[0]}, or another name"
    return ""


def _check_places(path: Path, key: str, told: object, names: Sequence[str]) -> None:
    """What is told is {"1": name}, or {name: 1}; several ids are a region."""
    if not isinstance(told, Mapping):
        return
    own = {name.strip().casefold(): i for i, name in enumerate(names)}
    for name, number in named_places(told):
        if not str(number).isdecimal():
            continue
        i, plain = int(number), str(name).strip().casefold()
        if own.get(plain, i) != i or is_unjudged(name) and i < len(names):
            expected = ", ".join(f"{place} {own_name}" for place, own_name in enumerate(names))
            raise ValueError(f'{path}: "{key}" has {name!r} as {i}, expected {expected}, as the bundle has them')


def _check_regions(path: Path, told: object, regions: Regions) -> None:
    """One id for a region of several says nothing: the label maps may show the region by it."""
    own = {name.strip().casefold(): sorted(map(str, ids)) for name, ids in regions.items()}
    for name, ids in named_places(told) if isinstance(told, Mapping) else ():
        found = sorted(map(str, ids if isinstance(ids, list) else [ids]))
        expected = own.get(name.strip().casefold(), found)
        if found != expected and not len(found) == 1 < len(expected):
            raise ValueError(
                f'{path}: "labels" has {name!r} as {", ".join(found)}, expected the ids {", ".join(expected)} of the '
                "bundle's region"
            )
