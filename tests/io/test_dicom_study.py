"""Which series a folder of DICOM files holds, and what else."""

import shutil

import numpy as np
import pytest
from dicom_helpers import change_tags, make_report, write_series
from pydicom.uid import EnhancedMRImageStorage, SecondaryCaptureImageStorage, SegmentationStorage

from rep3d.io.dicom_study import read_study
from rep3d.io.geometry import VolumeError
from rep3d.io.scans import read_scan, read_scan_geometry


def as_segmentation(paths):
    change_tags(paths, SOPClassUID=SegmentationStorage, Modality="SEG")


def as_screenshot(paths):
    change_tags(paths, SOPClassUID=SecondaryCaptureImageStorage, ImagePositionPatient=None)


def as_localizer(paths):
    change_tags(paths, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])


OTHERS = {
    as_segmentation: "Segmentation Storage",
    as_screenshot: "Secondary Capture Image Storage",
    as_localizer: "a localizer",
    make_report: "Basic Text SR Storage",
}


def names(study):
    return [series.name for series in study.series]


@pytest.mark.parametrize("place", ["study/z_other", "study/ct"])
@pytest.mark.parametrize(("change", "reason"), OTHERS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_no_scan_is_named(change, reason, place, tmp_path):
    """In a folder of its own, and beside the scan."""
    write_series(tmp_path / "study/ct", slices=4)
    others = write_series(tmp_path / "other", slices=2)
    change(others)
    (tmp_path / place).mkdir(exist_ok=True)
    moved = [shutil.move(path, tmp_path / place / f"z{path.name}") for path in others]
    study = read_study(tmp_path / "study")
    assert names(study) == ["ct"] and not study.series[0].problem
    assert study.skipped == {str(moved[0]): f"{reason} and 1 other file(s) of its series"}
    voxels, geometry = read_scan(study.series[0].path)
    assert voxels.shape == geometry.shape == (64, 48, 4)


@pytest.mark.parametrize("numbers", [(3, 7), (5, 5)])
def test_two_series_in_one_folder(numbers, tmp_path):
    """Each is read by one of its files; names are those of the series."""
    for number, (slices, told) in enumerate(zip((5, 9), numbers, strict=True)):
        paths = write_series(tmp_path / str(number), slices=slices)
        change_tags(paths, SeriesNumber=told)
        (tmp_path / "all").mkdir(exist_ok=True)
        for path in paths:
            path.rename(tmp_path / "all" / f"{number}{path.name}")
    study = read_study(tmp_path / "all")
    ends = numbers if len(set(numbers)) == 2 else [series.uid.rpartition(".")[2] for series in study.series]
    assert names(study) == [f"all/series_{end}" for end in ends]
    for series, slices in zip(study.series, (5, 9), strict=True):
        voxels, geometry = read_scan(series.path)
        assert voxels.shape == (64, 48, slices) and voxels.max() > 0
        np.testing.assert_array_equal(read_scan_geometry(series.path).affine, geometry.affine)
        assert read_scan_geometry(series.path).shape == geometry.shape


def test_series_that_nothing_short_tells_apart(tmp_path):
    """Without a number, and of UIDs that end alike, or as another one's number."""
    uids = ["1.2.840.1.0", "1.2.840.2.0", "1.2.840.3.7", "1.2.840.4.1"]
    for uid, number in zip(uids, ("", "", "", "7"), strict=True):
        paths = write_series(tmp_path / uid, slices=2)
        change_tags(paths, SeriesInstanceUID=uid, SeriesNumber=number or None)
        (tmp_path / "all").mkdir(exist_ok=True)
        for path in paths:
            path.rename(tmp_path / "all" / f"{uid}_{path.name}")
    assert names(read_study(tmp_path / "all")) == [f"all/series_{end}" for end in (*uids[:3], "7")]


def test_folders_of_one_name_go_by_their_paths(tmp_path):
    for patient in "ab":
        write_series(tmp_path / patient / "ct", slices=3)
    write_series(tmp_path / "c/mr", "MR", slices=3)
    (tmp_path / ".trash").mkdir()
    write_series(tmp_path / ".trash/old", slices=3)
    assert names(read_study(tmp_path)) == ["a/ct", "b/ct", "mr"]


def test_links_to_series(tmp_path):
    """Each goes by the link's name; what lies in the folder itself keeps its own, whatever links lead there."""
    for patient in "ab":
        write_series(tmp_path / "archive" / patient / "ct", slices=3)
    study = tmp_path / "study"
    write_series(study / "own", slices=3)
    (study / "again").symlink_to(study / "own")
    (study / "above").symlink_to(tmp_path)
    for patient in "ab":
        (study / patient).symlink_to(tmp_path / "archive" / patient / "ct")
    found = read_study(study)
    assert names(found) == ["own", "a", "b"] and not any(series.problem for series in found.series)
    assert [read_scan(series.path)[0].shape for series in found.series] == [(64, 48, 3)] * 3


def test_a_series_in_two_folders_is_refused(tmp_path):
    """Each of them would be half a scan, on a grid of its own."""
    paths = write_series(tmp_path / "a", slices=8)
    (tmp_path / "b").mkdir()
    for path in paths[4:]:
        path.rename(tmp_path / "b" / path.name)
    study = read_study(tmp_path)
    assert [series.problem for series in study.series] == [
        f"{tmp_path / other} holds files of the same series: expected all of them in one folder" for other in "ba"
    ]


def test_what_cannot_be_read_stays_listed(tmp_path):
    """A damaged file, and images that are not read: they fail by name, and are not passed over."""
    write_series(tmp_path / "good", slices=3)
    write_series(tmp_path / "cut", slices=3)[0].write_bytes(b"DICM")
    change_tags(write_series(tmp_path / "enhanced", slices=1), SOPClassUID=EnhancedMRImageStorage, NumberOfFrames=40)
    study = read_study(tmp_path)
    problems = {series.name: series.problem for series in study.series}
    assert problems == {"cut": "000.dcm: no DICOM file", "enhanced": "", "good": ""} and not study.skipped
    with pytest.raises(VolumeError, match="with 40 frames: multi-frame objects are not read"):
        read_scan(tmp_path / "enhanced")
