"""The series of a study: a tree of DICOM files, as a PACS or a CD gives them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.uid import UID

from rep3d.io.dicom import Header, is_series, read_headers
from rep3d.io.folders import walk
from rep3d.io.geometry import VolumeError

IMAGE, SCREENSHOT = "Image Storage", "Secondary Capture"  # in the names of kinds of DICOM objects
LOCALIZER = "LOCALIZER"


@dataclass(frozen=True)
class Series:
    """One series of images.

    Args:
        path: what `rep3d.io.dicom.find_slices` takes: its folder, or a file where that holds other objects, too.
        name: to tell it from the others of the study; the parts of a path.
        uid: of the series; an empty text where it tells none.
        problem: why it is not to be read, or an empty text.
    """

    path: Path
    name: str
    uid: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Study:
    """What a folder and its subfolders hold.

    Args:
        series: of images, whether they can be read or not.
        skipped: why other objects are no scans, by the path of the first of each series.
    """

    series: list[Series]
    skipped: dict[str, str]


def read_study(folder: Path) -> Study:
    """The series in a folder and its subfolders, as `rep3d.io.folders.walk` finds them.

    Segmentations, reports, plans, screenshots and localizers are no scans.
    """
    series: list[Series] = []
    skipped: dict[str, str] = {}

    def unread(place: Path, error: OSError) -> None:
        series.append(Series(place, _name(place, folder), problem=f"cannot be read ({error.strerror})"))

    for place, _ in walk(folder, lambda error: unread(Path(error.filename), error)):
        try:
            if is_series(place):
                series += _series_of(place, _name(place, folder), skipped)
        except VolumeError as error:  # nobody knows which series lacks the file
            series.append(Series(place, _name(place, folder), problem=error.reason))
        except OSError as error:
            unread(place, error)
    return Study(_named(folder, [_refuse_parts(one, series) for one in series]), skipped)


def _name(place: Path, folder: Path) -> str:
    return folder.resolve().name if place == folder else place.name  # that of "." is empty


def _series_of(folder: Path, name: str, skipped: dict[str, str]) -> list[Series]:
    """The series of images in a folder itself, named after it; adds the others to `skipped`."""
    headers, _ = read_headers(folder)
    by_uid: dict[str, dict[Path, Header]] = {}
    for path, header in headers.items():
        by_uid.setdefault(str(header["SeriesInstanceUID"]), {})[path] = header
    scans = {}
    for uid, own in by_uid.items():
        reasons = [_no_scan(header) for header in own.values()]
        if all(reasons):
            beside = f" and {len(own) - 1} other file(s) of its series" if len(own) > 1 else ""
            skipped[str(next(iter(own)))] = f"{reasons[0]}{beside}"
        else:
            scans[uid] = own
    if len(scans) == 1:
        ((uid, own),) = scans.items()
        return [Series(folder if len(by_uid) == 1 else next(iter(own)), name, uid)]
    ends = _shortest_ends({uid: _number(own) for uid, own in scans.items()})
    return [Series(next(iter(own)), f"{name}/series_{ends[uid]}", uid) for uid, own in scans.items()]


def _shortest_ends(number_of: Mapping[str, str]) -> dict[str, str]:
    """What tells series apart, by their UIDs: the number, or the last part of the UID, or all of it."""
    numbers = Counter(number_of.values())
    short = {uid: number if numbers[number] == 1 else uid.rpartition(".")[2] for uid, number in number_of.items()}
    taken = Counter(short.values())
    return {uid: one if taken[one] == 1 or numbers[number_of[uid]] == 1 else uid for uid, one in short.items()}


def _no_scan(header: Header) -> str:
    """What a DICOM object is instead of a part of a scan, or an empty text. Images that cannot be read are no such."""
    uid = UID(header["SOPClassUID"])
    kind = uid.name if uid.name != uid else ""
    if header["Rows"] == "" or (kind and not kind.endswith(IMAGE)):
        return kind or "no image"
    if SCREENSHOT in kind and header["ImagePositionPatient"] == "":
        return kind
    return "a localizer" if LOCALIZER in header["ImageType"] else ""


def _number(headers: Mapping[Path, Header]) -> str:
    return str(next(iter(headers.values()))["SeriesNumber"])


def _refuse_parts(series: Series, others: list[Series]) -> Series:
    """A series of which another folder has files, too, is refused: each of them may lack some."""
    same = [other.path for other in others if other.uid and other.uid == series.uid and other is not series]
    if not same:
        return series
    return replace(series, problem=f"{same[0]} holds files of the same series: expected all of them in one folder")


def _named(root: Path, series: list[Series]) -> list[Series]:
    """The series with the names of their folders, or where two are alike, with their paths from the root."""
    counts = Counter(one.name for one in series)
    named = []
    for one in series:
        parents = (one.path if one.path.is_dir() else one.path.parent).relative_to(root).parts[:-1]
        named.append(replace(one, name="/".join((*parents, one.name))) if counts[one.name] > 1 else one)
    return named
