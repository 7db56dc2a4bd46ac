"""A data set in the raw layout of nnU-Net, version 2, with some of its cases held out.

    imagesTr/CASE_0000.nii.gz ... labelsTr/CASE.nii.gz    to learn from
    imagesTs, labelsTs                                    held out, named likewise
    dataset.json

`rep3d new` reads the same folder, and neither it nor nnU-Net looks at the labels that are held out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import nibabel as nib

from rep3d.data.checks import check_pair
from rep3d.data.dataset_json import FILE
from rep3d.datasets.downloads import Scan
from rep3d.datasets.preparation import link
from rep3d.datasets.sources import Source, choose_channels
from rep3d.files import whole_file, write_json
from rep3d.io.nifti import label_image, read_channels, read_geometry

ENDING = ".nii.gz"


def label_names(source: Source, place: Path) -> list[str]:
    """The names of the ids 0, 1, ..., the background first.

    Args:
        source: the data set.
        place: its folder, for messages.

    Raises:
        ValueError: no file tells them, ids are missing, they are regions or have an ignore label, or label maps have
            ids of their own.
    """
    expected = f"expected a {FILE} with names of the ids 0, 1, 2, ..."
    if source.labels is None:
        raise ValueError(f"{place}: no file tells the labels, {expected}")
    if source.labels.regions is not None or source.labels.ignored is not None:
        raise ValueError(f"{place / FILE}: has regions or an ignore label, {expected} alone")
    if any(case.ids is not None for case in source.cases):
        raise ValueError(f"{place}: its labels number their segments differently, expected one numbering for all")
    ids = sorted(source.labels.names)
    if ids != list(range(len(ids))):
        raise ValueError(f"{place / FILE}: has the label ids {ids}, {expected}")
    return [source.labels.names[i] for i in ids]


def write_raw(source: Source, place: Path, folder: Path, held_out: Collection[str]) -> None:
    """Write the folder; what is stored in the same form already is linked. `dataset.json` comes last.

    Args:
        source: the data set.
        place: its folder, for messages.
        folder: receives the files.
        held_out: names of cases.

    Raises:
        ValueError: as `label_names`; a case lacks a channel, or its image and its label lie at different places.
    """
    names = label_names(source, place)
    scans, problems = choose_channels(source)
    if problems:
        raise ValueError("; ".join(text for texts in problems.values() for text in texts))
    for scan in scans:
        label = Path(str(scan.label))
        check_pair({"image": list(map(str, scan.images)), "label": str(label)}, source.channels)
        _write_case(scan, label, folder, "Ts" if scan.case in held_out else "Tr")
    content = {
        "channel_names": {str(i): name for i, name in enumerate(source.told or source.channels)},
        "labels": {name: i for i, name in enumerate(names)},
        "numTraining": sum(scan.case not in held_out for scan in scans),
        "file_ending": ENDING,
    }
    write_json(folder / FILE, content)


def _write_case(scan: Scan, label: Path, folder: Path, part: str) -> None:
    _write_channels([label], [folder / f"labels{part}/{scan.case}{ENDING}"])
    count = len(scan.images) if len(scan.images) > 1 else read_geometry(scan.images[0], several=True).channels
    _write_channels(scan.images, [folder / f"images{part}/{scan.case}_{i:04d}{ENDING}" for i in range(count)])


def _write_channels(sources: Sequence[Path], targets: Sequence[Path]) -> None:
    """A file for each channel: a link where it is one already, else a copy of its voxels on the same grid."""
    targets[0].parent.mkdir(parents=True, exist_ok=True)
    if len(sources) == len(targets) and all(map(_is_plain, sources)):
        for path, target in zip(sources, targets, strict=True):
            link(path.resolve(), target)
        return
    read = [read_channels(path) for path in sources]
    channels = [(voxels, geometry) for of_file, geometry in read for voxels in of_file]
    for (voxels, geometry), target in zip(channels, targets, strict=True):
        with whole_file(target) as temporary:
            nib.save(label_image(voxels, geometry), temporary)


def _is_plain(path: Path) -> bool:
    """Whether nnU-Net reads the file as it is: it takes one suffix for all, and three axes."""
    return path.name.endswith(ENDING) and int(read_geometry(path, several=True).header["dim"][0]) == 3
