"""Reads a source, whatever its layout, and chooses its channels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rep3d.data import splits
from rep3d.data.cases import CHANNEL, LABEL_WORDS, case_name, case_names, file_name
from rep3d.data.dataset_json import FILE, read_dataset_json
from rep3d.data.leakage import some
from rep3d.datasets.downloads import Scan
from rep3d.datasets.sources.cases import Case, Source, patient_of
from rep3d.datasets.sources.described import described_source
from rep3d.datasets.sources.folders import folder_pairs, side_by_side
from rep3d.datasets.sources.patients import BY_PATIENT, by_patient
from rep3d.datasets.sources.studies import LABELS, studies_source
from rep3d.datasets.sources.unused import unused_files

NNUNET_SPLITS = "splits_final.json"
NO_LABELS = "no image has a label: segment with `rep3d predict`, or draw labels in the label app"


def read_source(folder: Path, chosen: Sequence[str] = ()) -> Source:
    """The cases of a folder.

    Args:
        folder: of the data set.
        chosen: channels that are asked for. Where each case has one image, of whatever kind, all are one channel
            unless one of the kinds is among these.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has none of the layouts, no label, a case twice, or labels that a bundle cannot learn; or it is
            the folder of several data sets.
    """
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"source {str(folder)!r} {what}: give the folder of the data set")
    source = _read_layout(folder, chosen)
    if all(case.label is None for case in source.cases):
        hint = f"; the name of a label begins or ends with one of {', '.join(sorted(LABEL_WORDS))}"
        raise ValueError(f"source {str(folder)!r}: {NO_LABELS}{hint if source.layout == BY_PATIENT else ''}")
    return source._replace(cases=_uniquely_named(source.cases), split=source.split or _split_beside(folder))


def _read_layout(folder: Path, chosen: Sequence[str]) -> Source:
    """The cases as the folder's layout has them, and which of its files are in none of them."""
    if (folder / FILE).is_file():
        source = described_source(folder, read_dataset_json(folder))
    elif (folder / LABELS).is_dir():
        return studies_source(folder)
    elif pairs := folder_pairs(folder):
        names = " and ".join(path.name for path in pairs[0])
        source = side_by_side(folder, pairs, f"the folders {names}")
    elif below := [path.name for path in sorted(folder.iterdir()) if (path / FILE).is_file()]:
        raise ValueError(f"source {str(folder)!r} holds data set(s) with a {FILE}: give one of {', '.join(below)}")
    else:
        source = by_patient(folder, chosen)
    return source._replace(notes=[*source.notes, *unused_files(folder, source)])


def _split_beside(folder: Path) -> str:
    """The first file with a split of these cases: ours, or nnU-Net's, which may lie where that preprocesses."""
    whole = folder.absolute()
    preprocessed = Path(os.environ.get("nnUNet_preprocessed", whole.parent.parent / "nnUNet_preprocessed"))
    places = [folder / splits.FILE, folder / NNUNET_SPLITS, preprocessed / whole.name / NNUNET_SPLITS]
    return next((str(path) for path in places if path.is_file()), "")


def choose_channels(source: Source, chosen: Sequence[str] = ()) -> tuple[list[Scan], dict[str, list[str]]]:
    """The cases that have a label, with the files of their channels; and what is wrong, by case.

    Args:
        source: of one or several channels.
        chosen: some of its channels; without, all.

    Raises:
        ValueError: there is no such channel, or it stands there twice; or numbered ones are in another order, by which
            `rep3d predict` would take them.
    """
    unknown = [name for name in chosen if name not in source.channels]
    if unknown or len(set(chosen)) < len(chosen):
        raise ValueError(f"channel is {','.join(chosen)!r}, expected some of {', '.join(source.channels)}")
    ordered = [name for name in source.channels if name in chosen]
    if source.told and list(chosen) != ordered and _are_numbered(source):
        raise ValueError(f"channel is {','.join(chosen)!r}, expected {','.join(ordered)}: the files are numbered so")
    scans, problems, channels = [], {}, chosen or source.channels
    shared = _shared_files(source.cases, channels)
    for case in source.cases:
        if case.label is None:
            continue
        problem = case.problem or _channel_problem(case, channels) or shared.get(case.name)
        if problem:
            problems[case.name] = [problem]
        else:
            files = dict.fromkeys(case.images[name] for name in channels)
            scans.append(Scan(case.name, list(files), case.label))
    return scans, problems


def _shared_files(cases: Sequence[Case], channels: Sequence[str]) -> dict[str, str]:
    """What is wrong with cases that have a label, or the file of a channel, in common, by their names.

    Links of labels are not followed: in stores of contents all empty ones lead to one file.
    """
    found: dict[str, dict[str, Path]] = {}
    for case in cases:
        if case.label is not None:
            images = [case.images[name] for name in channels if name in case.images]
            places = {os.path.abspath(case.label): case.label, **{os.path.realpath(path): path for path in images}}
            for place, path in places.items():
                found.setdefault(place, {})[case.name] = path
    return {
        case: f"{path}: is a file of the cases {some(list(paths))}, expected of one"
        for paths in found.values()
        for case, path in paths.items()
        if len(paths) > 1
    }


def _are_numbered(source: Source) -> bool:
    return any(case_name(path).endswith(CHANNEL) for case in source.cases for path in case.images.values())


def _channel_problem(case: Case, channels: Sequence[str]) -> str:
    """Why a case does not have these channels by themselves, or an empty text."""
    for name in channels:
        if name not in case.images:
            return f"{case.label}: there is no image of the channel {name!r} beside this label"
    files = [case.images[name] for name in channels]
    others = [name for name, path in case.images.items() if name not in channels and path in files]
    if others:
        return f"{files[0]}: holds the channel {others[0]!r} as well: take all, or split the file"
    held = {file: [name for name, path in case.images.items() if path == file] for file in files}
    if sum(held.values(), []) == list(channels):
        return ""
    file, own = next((file, own) for file, own in held.items() if len(own) > 1)
    return f"{file}: holds its channels as {', '.join(own)}: give them in that order"


def _uniquely_named(cases: Sequence[Case]) -> list[Case]:
    """The cases, with names that become file names and tell them apart, and the patient where nobody else does.

    Raises:
        ValueError: two are of one name, and their images' paths do not tell them apart either.
    """
    names = [file_name(case.name) for case in cases]
    if len(set(names)) < len(names):
        names = list(map(file_name, case_names([{"image": str(path)} for path in map(_place, cases)])))
    return [
        case._replace(name=name, patient=case.patient or patient_of(name))
        for case, name in zip(cases, names, strict=True)
    ]


def _place(case: Case) -> Path:
    return next(iter([*case.images.values(), Path(case.name)]))
