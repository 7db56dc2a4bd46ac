"""One label map in every format."""

import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from rep3d.io.geometry import VolumeError, plain_geometry
from rep3d.io.nrrd import write_volume
from rep3d.io.segments import read_segments
from rep3d.io.volumes import read_geometry, read_volume, write_label_map

AFFINE = np.array([[-1.5, 0, 0, 10], [0, 0, 2.0, -20], [0, 3.0, 0, 30], [0, 0, 0, 1]])


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".seg.nrrd"])
def test_formats_agree(suffix, tmp_path):
    """What is written comes back, on the same grid, also as SimpleITK reads it."""
    voxels = np.random.default_rng(0).integers(0, 3, (4, 5, 6), dtype=np.uint8)
    path = tmp_path / f"label{suffix}"
    write_label_map(voxels, plain_geometry(voxels.shape, AFFINE), path, labels={"a": 1, "b": 2})
    grid = read_geometry(path)
    assert grid.shape == (4, 5, 6)
    np.testing.assert_allclose(grid.affine, AFFINE, atol=1e-6)
    np.testing.assert_array_equal(read_volume(path)[0], voxels)
    image = sitk.ReadImage(str(path))
    assert image.GetPixelID() == sitk.sitkUInt8
    point = image.TransformIndexToPhysicalPoint((3, 1, 2))
    np.testing.assert_allclose(np.array([-1, -1, 1]) * point, (AFFINE @ [3, 1, 2, 1])[:3], atol=1e-5)
    assert [path.name] == [p.name for p in tmp_path.iterdir()]


def test_segments_of_slicer(tmp_path):
    path = tmp_path / "label.seg.nrrd"
    write_label_map(
        np.ones((2, 3, 4), np.uint8), plain_geometry((2, 3, 4), AFFINE), path, labels={"liver": 1, "unheard of": 2}
    )
    image = sitk.ReadImage(str(path))
    assert [image.GetMetaData(f"Segment{i}_Name") for i in range(2)] == ["liver", "unheard of"]
    assert [image.GetMetaData(f"Segment{i}_LabelValue") for i in range(2)] == ["1", "2"]
    colors = [image.GetMetaData(f"Segment{i}_Color").split() for i in range(2)]
    assert colors[0] != colors[1] and all(0 <= float(part) <= 1 for color in colors for part in color)
    assert image.GetMetaData("Segment0_Extent") == "0 1 0 2 0 3"


def test_ids_that_do_not_fit_the_type(tmp_path):
    with pytest.raises(ValueError, match="dtype is uint8, but the label map holds 300"):
        write_label_map(np.full((2, 2, 2), 300), plain_geometry((2, 2, 2), AFFINE), tmp_path / "a.nii.gz", labels={})
    assert not list(tmp_path.iterdir())


def test_segments_there_and_back(tmp_path):
    """The names and values that Slicer reads; the background is none."""
    path = tmp_path / "label.seg.nrrd"
    labels = {"background": 0, "liver": 3, "left kidney": 1}
    write_label_map(np.ones((2, 3, 4), np.uint8), plain_geometry((2, 3, 4), AFFINE), path, labels=labels)
    assert read_segments(path) == {"liver": 3, "left kidney": 1}


@pytest.mark.parametrize("labels", [{"a": 1, "b": 1}, {"a": 300}], ids=["twice", "beyond"])
def test_values_that_are_no_segments(labels, tmp_path):
    path = tmp_path / "label.seg.nrrd"
    write_label_map(np.ones((2, 3, 4), np.uint8), plain_geometry((2, 3, 4), AFFINE), path, labels=labels)
    with pytest.raises(VolumeError, match="expected different ones from 1 to 255"):
        read_segments(path)


def test_segments_without_values(tmp_path):
    path = tmp_path / "label.seg.nrrd"
    write_volume(path, np.ones((2, 3, 4), np.uint8), AFFINE, fields={"Segment0_Name": "liver"}, compress=False)
    with pytest.raises(VolumeError, match="need names and label values"):
        read_segments(path)


def test_refusals_name_the_file(tmp_path):
    for name in ("absent.nrrd", "absent.nii.gz", "a.zip"):
        with pytest.raises(VolumeError, match=name):
            read_volume(tmp_path / name)


@pytest.mark.slow
def test_what_needs_no_extra(tmp_path):
    """The library, and NIfTI: without SimpleITK and pydicom."""
    nib.save(nib.Nifti1Image(np.ones((2, 3, 4), np.uint8), AFFINE), tmp_path / "a.nii.gz")
    program = (
        "import sys; sys.modules.update(SimpleITK=None, pydicom=None, highdicom=None, PIL=None); import rep3d, pathlib;"
        "from rep3d.io.volumes import read_volume; print(read_volume(pathlib.Path(sys.argv[1]))[0].shape);"
        "read_volume(pathlib.Path('a.nrrd'))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a.nii.gz")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.stdout == "(2, 3, 4)\n" and "SimpleITK" in result.stderr.splitlines()[-1]
