"""Files in the folder of a source that look like scans or labels, and belong to none of its cases."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rep3d.data.cases import SUFFIXES, is_nifti
from rep3d.data.layouts import is_dicom_file
from rep3d.datasets.sources.cases import Source
from rep3d.io.folders import walk
from rep3d.io.nifti import is_label_map_of_ours

KINDS = {"NIfTI": SUFFIXES, "NRRD": (".nrrd",), "MHA": (".mha", ".mhd")}  # by the ends of their names
DICOM = "DICOM"
APART = {"imagests", "labelsts", "derivatives", "sourcedata"}  # folders: of test cases; BIDS' of what is made, and raw


def unused_files(folder: Path, source: Source) -> list[str]:
    """How many such files there are, of each kind; nothing where there is none.

    Test cases, and label maps of an earlier inference, are known not to be cases.

    Args:
        folder: of the source.
        source: its cases.
    """
    known = {os.path.realpath(path) for path in _files_of(source)}
    found: dict[str, list[Path]] = {}
    for path in _files_in(folder):
        is_known = os.path.realpath(path) in known or is_nifti(path) and is_label_map_of_ours(path)
        if not is_known and (kind := _kind(path)):
            found.setdefault(kind, []).append(path)
    told = "; ".join(f"{len(paths)} {kind} file(s), such as {paths[0]}" for kind, paths in found.items())
    return [f"in no case: {told}: cases are read from NIfTI files, where their layout has them"] if told else []


def _files_of(source: Source) -> Iterator[Path]:
    """Of its cases and its tests."""
    yield from source.tests
    for case in source.cases:
        yield from case.images.values()
        if case.label is not None:
            yield case.label


def _files_in(folder: Path) -> Iterator[Path]:
    """All that may be of cases; a folder that cannot be read, and that no layout needs, is passed over."""
    for place, files in walk(folder, lambda error: None):
        if not {part.lower() for part in place.relative_to(folder).parts[:1]} & APART:
            yield from files


def _kind(path: Path) -> str:
    """What a file is by its name, else by its beginning; empty of one that is no scan and no label."""
    by_name = [kind for kind, suffixes in KINDS.items() if path.name.lower().endswith(suffixes)]
    return by_name[0] if by_name else DICOM if is_dicom_file(path) else ""
