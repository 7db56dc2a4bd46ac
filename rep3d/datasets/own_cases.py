"""The cases of a folder of somebody's own that can be used, and what is wrong with the others."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rep3d.console.errors import describe
from rep3d.data.checks import check_pair
from rep3d.data.notes import FEWEST_VALUES
from rep3d.datasets.downloads import Scan
from rep3d.datasets.fingerprint import CaseFacts
from rep3d.datasets.own_data import STAGED
from rep3d.datasets.own_labels import count_ids, renumbered
from rep3d.datasets.planning.spacings import choose_spacing, too_large, wrong_spacings
from rep3d.datasets.preparation import CHECKED, check_pairs
from rep3d.datasets.sources import Source, ToldLabels, choose_channels
from rep3d.io.geometry import VolumeError
from rep3d.io.nifti import read_volume

SHOWN = 5  # problems, in a message


class Cases(NamedTuple):
    """What a folder holds.

    Attributes:
        scans: of the cases that can be used.
        facts: the same cases.
        channel_names: of each of them.
        problems: of the others, by case.
        notes: what somebody should know of them.
    """

    scans: list[Scan]
    facts: list[CaseFacts]
    channel_names: Sequence[str]
    problems: dict[str, list[str]]
    notes: list[str]


def read_cases(
    source: Path,
    found: Source,
    told: ToldLabels | None,
    channels: Sequence[str],
    data: Path,
    spacing: Sequence[float] | None,
) -> Cases:
    """Check every file.

    Args:
        source: the folder.
        found: what it holds.
        told: what is known of its labels.
        channels: which of several images of a case; without, all of them.
        data: receives what is remembered of the files, and label maps in common ids.
        spacing: in mm, along the RAS axes; None: as `choose_spacing`.

    Raises:
        ValueError: most cases cannot be used, or `choose_channels`.
    """
    scans, problems = choose_channels(found, channels)
    data.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(data / STAGED, ignore_errors=True)
    scans, of_ids = _in_common_ids(scans, found, data / STAGED)
    problems |= of_ids
    facts, of_files = check_pairs(scans, count_ids(told), data / CHECKED, None, told and told.ignored)
    problems |= of_files
    known = channels or found.channels
    channel_names = _channel_names(facts, known, bool(found.told))
    others = _other_channels(facts, channel_names, {scan.case: scan.images[0] for scan in scans})
    others |= _other_labels(facts, told, {scan.case: scan.label for scan in scans})
    problems |= others
    facts = [fact for fact in facts if fact.case not in others]
    if facts:
        of_spacings = wrong_spacings(facts)
        problems |= of_spacings
        facts = [fact for fact in facts if fact.case not in of_spacings]
    while facts and (of_sizes := too_large(facts, spacing or choose_spacing(facts)[0])):
        problems |= of_sizes
        facts = [fact for fact in facts if fact.case not in of_sizes]
    if not facts:
        raise ValueError(f"source {str(source)!r}: no case can be used: {_some(problems)}")
    if len(problems) > len(facts):
        count = f"{len(problems)} of {len(problems) + len(facts)} cases cannot be used, expected half of them at most"
        raise ValueError(f"source {str(source)!r}: {count}; mend them, or take them out: {_some(problems)}")
    good = {fact.case for fact in facts}
    notes = [*_volumes(channel_names, known), *_drawings(facts, channel_names)]
    return Cases([scan for scan in scans if scan.case in good], facts, channel_names, problems, notes)


def _in_common_ids(scans: Sequence[Scan], source: Source, folder: Path) -> tuple[list[Scan], dict[str, list[str]]]:
    """The scans, with copies of the label maps that have ids of their own; and what is wrong with these, by case."""
    ids_of = {case.name: case.ids for case in source.cases if case.ids is not None}
    found, problems = [], {}
    for scan in scans:
        ids, label = ids_of.get(scan.case), scan.label
        if ids is not None:
            try:
                check_pair({"image": list(map(str, scan.images)), "label": str(label)}, None)
                voxels, geometry = read_volume(str(label))
            except VolumeError as error:
                problems[scan.case] = [describe(error)]
                continue
            others = sorted({*np.unique(voxels).tolist()} - {0, *ids})
            if others:
                problems[scan.case] = [f"{label}: label value(s) {others}, which no segment of it has: {sorted(ids)}"]
                continue
            if any(old != new for old, new in ids.items()):
                label = renumbered(voxels, geometry, ids, folder, scan.case)
        found.append(scan._replace(label=label))
    return found, problems


def _channel_names(facts: Sequence[CaseFacts], known: Sequence[str], is_told: bool) -> Sequence[str]:
    """The names of the channels. Where nobody tells them, most files say how many there are."""
    counts = Counter(fact.channels for fact in facts)
    if is_told or len(known) > 1 or not counts:
        return known
    ((count, _),) = counts.most_common(1)
    return known if count == len(known) else [f"channel {i}" for i in range(count)]


def _volumes(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """That the volumes of a file are taken for channels, where nobody tells them."""
    told = f"the {len(names)} volumes of each image file are taken for channels, since nothing says what they are"
    return [f"{told}: a series over time is not read"] if len(names) > len(known) else []


def _drawings(facts: Sequence[CaseFacts], names: Sequence[str]) -> list[str]:
    """Channels that look as label maps do."""
    notes = []
    for i, name in enumerate(names):
        cases = [fact.case for fact in facts if fact.drawn[i]]
        if cases:
            told = f"channel {name!r} has fewer than {FEWEST_VALUES} values, all of them whole numbers"
            notes.append(f"{told}, in {len(cases)} case(s), such as {cases[0]}: is it a drawing?")
    return notes


def _other_channels(
    facts: Sequence[CaseFacts], names: Sequence[str], image_of: Mapping[str, Path]
) -> dict[str, list[str]]:
    """The cases that have more or fewer channels."""
    expected = f"expected {len(names)}: {', '.join(names)}"
    return {
        fact.case: [f"{image_of[fact.case]}: {fact.channels} channel(s) of an image, {expected}"]
        for fact in facts
        if fact.channels != len(names)
    }


def _other_labels(
    facts: Sequence[CaseFacts], told: ToldLabels | None, label_of: Mapping[str, Path | None]
) -> dict[str, list[str]]:
    """The cases with ids that no label has, where the data set's file tells the labels."""
    if told is None:
        return {}
    known = {*told.names, told.ignored}
    wrong = {fact.case: [i for i, n in enumerate(fact.voxels) if n and i not in known] for fact in facts}
    expected = f"expected those of {', '.join(told.names.values())}"
    return {case: [f"{label_of[case]}: label value(s) {ids}, {expected}"] for case, ids in wrong.items() if ids}


def _some(problems: Mapping[str, Sequence[str]]) -> str:
    texts = [text for texts in problems.values() for text in texts]
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more
