"""What `rep3d predict` takes for scans."""

import importlib.util
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from folder_helpers import deny

from rep3d.data.scans import list_scans
from rep3d.io.geometry import plain_geometry
from rep3d.io.nifti import read_volume, write_marked
from rep3d.io.reader import NiftiReader

dicom = pytest.mark.skipif(importlib.util.find_spec("highdicom") is None, reason="needs the extra `dicom`")


def write_nifti(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.float32), np.eye(4)), path)


@pytest.fixture
def scans(tmp_path):
    """A folder of all kinds of files."""
    write_nifti(tmp_path / "a.nii.gz")
    write_nifti(tmp_path / ".hidden.nii.gz")
    write_marked(np.ones((3, 4, 5), np.uint8), plain_geometry((3, 4, 5), np.eye(4)), tmp_path / "a_seg.nii.gz")
    (tmp_path / "b.nrrd").touch()
    (tmp_path / "b.seg.nrrd").touch()
    (tmp_path / "notes.txt").write_text("hello")
    return tmp_path


def cases(source):
    return {item["case"]: item["image"] for item in list_scans(source)}


def test_files_of_a_folder(scans):
    assert cases(scans) == {"a": str(scans / "a.nii.gz"), "b": str(scans / "b.nrrd")}


def test_endings_in_capitals(tmp_path):
    """Such as a disk of Windows has them: no scan is left out in silence."""
    for name in ("A.NII.GZ", "b.Nii"):
        write_nifti(tmp_path / name.lower())
        (tmp_path / name.lower()).rename(tmp_path / name)
    found = cases(tmp_path)
    assert found == {"A": str(tmp_path / "A.NII.GZ"), "b": str(tmp_path / "b.Nii")}
    assert [item["image"] for item in list_scans(tmp_path / "A.NII.GZ")] == [found["A"]]
    for image in found.values():
        assert read_volume(image)[0].shape == (3, 4, 5) and NiftiReader().verify_suffix(image)


def test_scans_of_several_channels(tmp_path):
    """A case of which a channel is missing is one all the same: it is named when it is read."""
    for name in ("a_T1w", "a_FLAIR", "b_0001", "c"):
        write_nifti(tmp_path / f"{name}.nii.gz")
    write_marked(np.ones((3, 4, 5), np.uint8), plain_geometry((3, 4, 5), np.eye(4)), tmp_path / "a_seg.nii.gz")
    found = {item["case"]: item["image"] for item in list_scans(tmp_path, ["T1w", "FLAIR"])}
    assert found == {
        "a": [str(tmp_path / f"a_{name}.nii.gz") for name in ("T1w", "FLAIR")],
        "b": [str(tmp_path / f"b_000{number}.nii.gz") for number in range(2)],
        "c": str(tmp_path / "c.nii.gz"),
    }
    alone = list_scans(tmp_path / "a_FLAIR.nii.gz", ["T1w", "FLAIR"])
    assert [(item["case"], item["image"]) for item in alone] == [("a", found["a"])]


def test_label_maps_beside_their_scans_are_named_and_left_out(scans, caplog):
    """Such as of a folder to train on, drawn by hand or corrected; each one by itself is a scan where it is wanted."""
    labels = ["a_mask", "b-Label", "c_gt", "label_a", "seg-c"]
    for name in (*labels, "c_0000", "d_seg", "mass"):
        write_nifti(scans / f"{name}.nii.gz")
    assert list(cases(scans)) == ["a", "c_0000", "d_seg", "mass", "b"]
    told = f"dataset_dir {str(scans)!r}: 5 file(s) are called as label maps of scans beside them, and not segmented: "
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [told + ", ".join(f"{name}.nii.gz" for name in labels)]
    for name in labels:
        assert [item["image"] for item in list_scans(scans / f"{name}.nii.gz")] == [str(scans / f"{name}.nii.gz")]


def test_label_maps_in_nrrd_beside_their_scans(scans, caplog):
    """As 3D Slicer saves label volumes."""
    for name in ("a_seg", "b-label", "label"):
        (scans / f"{name}.nrrd").touch()
    assert list(cases(scans)) == ["a", "b"]
    assert "3 file(s) are called as label maps of scans beside them" in caplog.text


def test_files_of_other_formats_are_told_of(scans, caplog):
    for name in ("c.mha", "d.MHD", "d.raw", "e.img", "e.hdr", "f.nhdr", "g.nii.zip", ".h.mha"):
        (scans / name).touch()
    assert list(cases(scans)) == ["a", "b"]
    told = "5 file(s) are of formats that are not read, and not segmented: c.mha, d.MHD, e.hdr, f.nhdr, g.nii.zip"
    assert f"dataset_dir {str(scans)!r}: {told}: convert them to NIfTI" in caplog.text


def test_a_label_map_that_is_called_so_alone(tmp_path):
    """As in a folder of KiTS; where there is nothing else it is the scan that is asked for."""
    write_nifti(tmp_path / "segmentation.nii.gz")
    assert list(cases(tmp_path)) == ["segmentation"]
    write_nifti(tmp_path / "imaging.nii.gz")
    assert list(cases(tmp_path)) == ["imaging"]


def test_label_maps_beside_scans_of_several_channels(tmp_path, caplog):
    for name in ("a_T1w", "a_FLAIR", "a_seg"):
        write_nifti(tmp_path / f"{name}.nii.gz")
    assert [item["case"] for item in list_scans(tmp_path, ["T1w", "FLAIR"])] == ["a"]
    assert "a_seg.nii.gz" in caplog.text


@dicom
def test_series_below_a_folder(scans, caplog):
    from dicom_helpers import write_series

    write_series(scans / "study/ct", slices=3)
    paths = write_series(scans / "study/cut", slices=3)
    paths[1].write_bytes(b"")
    items = list_scans(scans)
    assert [item["case"] for item in items] == ["a", "b", "ct", "cut"]
    assert items[3]["problem"] == "001.dcm: no DICOM file" and "problem" not in items[2]
    assert cases(scans / "study/ct") == {"ct": str(scans / "study/ct")}
    assert cases(scans / "study/ct/000.dcm") == {"ct": str(scans / "study/ct/000.dcm")}


@dicom
def test_a_folder_that_cannot_be_read_is_a_scan_with_a_problem(scans, monkeypatch):
    from dicom_helpers import write_series

    write_series(scans / "study/ct", slices=3)
    (scans / "study/locked").mkdir()
    deny(monkeypatch, scans / "study/locked")
    items = list_scans(scans)
    assert [item["case"] for item in items] == ["a", "b", "ct", "locked"]
    assert [item.get("problem") for item in items[2:]] == [None, "cannot be read (Permission denied)"]


def test_files_below_a_folder_are_told_of(scans, caplog):
    """They are no scans of it: a label map of ours and hidden ones are not spoken of."""
    write_nifti(scans / "p2/ct.nii.gz")
    (scans / "p2/mr.NRRD").touch()
    write_nifti(scans / ".trash/old.nii.gz")
    write_marked(np.ones((3, 4, 5), np.uint8), plain_geometry((3, 4, 5), np.eye(4)), scans / "p2/ct_seg.nii.gz")
    assert list(cases(scans)) == ["a", "b"]
    told = f"2 NIfTI or NRRD file(s) lie in its subfolders, such as {scans / 'p2/ct.nii.gz'}"
    assert f"{told}, and are not segmented: if they are scans, give their folder" in caplog.text
    (scans / "a.nii.gz").unlink()
    (scans / "b.nrrd").unlink()
    (scans / "a_seg.nii.gz").unlink()
    with pytest.raises(ValueError, match="holds no scans: expected .*; 2 NIfTI or NRRD file.* lie in .*: give their"):
        list_scans(scans)


def test_label_maps_of_an_earlier_run_below_a_folder(scans, caplog):
    (scans / "out").mkdir()
    (scans / "a_seg.nii.gz").rename(scans / "out/a_seg.nii.gz")
    (scans / "out/b_seg.seg.nrrd").touch()
    assert list(cases(scans)) == ["a", "b"] and not caplog.records


@dicom
def test_objects_that_are_no_scans_are_logged(tmp_path, caplog):
    from dicom_helpers import make_report, write_series

    paths = write_series(tmp_path / "reports", slices=1)
    make_report(paths)
    with pytest.raises(ValueError, match="holds no scans: expected files that end with .* or DICOM series"):
        list_scans(tmp_path)
    assert f"skipped {paths[0]}: Basic Text SR Storage" in caplog.text


def test_without_the_extra(scans, monkeypatch):
    """A folder of NIfTI needs no pydicom; DICOM there does."""
    monkeypatch.setitem(sys.modules, "rep3d.io.dicom_study", None)
    assert list(cases(scans)) == ["a", "b"]
    (scans / "slice").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(ImportError):
        list_scans(scans)


@pytest.mark.parametrize("name", ["b.seg.nrrd", "notes.txt", "nothing"])
def test_refused(name, scans):
    (scans / "nothing").mkdir()
    with pytest.raises(ValueError, match=f"dataset_dir '.*{name}' (is no scan|holds no scans): expected files"):
        list_scans(scans / name)


def test_one_name_for_two_scans(scans):
    """Their label maps are two files."""
    write_nifti(scans / "b.nii")
    found = cases(scans)
    assert {Path(image).name for image in found.values()} == {"a.nii.gz", "b.nii", "b.nrrd"} and len(found) == 3
