"""Scans that readers put at different places, and files that are small only until they are read."""

import gzip
import json
import struct

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from app_helpers import small_bundle

from monailabel_app.bundles import read_bundle
from monailabel_app.errors import RequestError
from monailabel_app.models.inference import BundleInference
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.studies.submission import Submission, submit_label
from monailabel_app.studies.volumes import check_image, read_grid, read_label, read_voxels

SHAPE = (20, 22, 24)
AFFINE = nib.affines.from_matvec(np.diag([1.0, 1.5, 2.0]), (-20, 10, 5))
METRES = np.diag([1e-3, 1e-3, 1e-3, 1])
TURNED = nib.affines.from_matvec(nib.eulerangles.euler2mat(z=0.5) @ np.diag([1.0, 1.5, 2.0]), (100, 50, 0))


def write_scan(path, codes=(1, 1), qform=AFFINE, affine=AFFINE, unit="mm"):
    voxels = np.random.default_rng(0).normal(100, 20, SHAPE).astype(np.float32)
    volume = nib.Nifti1Image(voxels, affine)
    volume.set_qform(qform, codes[0])
    volume.set_sform(affine, codes[1])
    volume.header.set_xyzt_units(unit)
    nib.save(volume, path)
    return path


def negative_pixdim(path):
    content = bytearray(write_scan(path.with_suffix("")).read_bytes())
    struct.pack_into("<f", content, 80, -1.0)
    struct.pack_into("<h", content, 254, 0)
    path.with_suffix("").unlink()
    path.write_bytes(gzip.compress(content))
    return path


SCANS = {
    "two opinions": lambda path: write_scan(path, (1, 2), TURNED),
    "no codes": lambda path: write_scan(path, (0, 0)),
    "negative pixdim": negative_pixdim,
    "metres": lambda path: write_scan(path, qform=METRES @ AFFINE, affine=METRES @ AFFINE, unit="meter"),
}


def place(image):
    return image.GetOrigin() + image.GetSpacing() + image.GetDirection()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return BundleInference(read_bundle(small_bundle(tmp_path_factory.mktemp("bundles"), "msd_hippocampus")))


@pytest.mark.parametrize("kind", SCANS)
def test_slicer_sees_the_label_map_on_its_scan(kind, model, tmp_path):
    scan = SCANS[kind](tmp_path / "scan.nii.gz")
    for suffix in (".nii.gz", ".nrrd", ".seg.nrrd"):
        result, told = model({"image": str(scan), "result_extension": suffix, "preset": "fast"})
        np.testing.assert_allclose(place(sitk.ReadImage(result)), place(sitk.ReadImage(str(scan))), atol=1e-6)
    assert bool(told["note"]) == (kind != "metres")


@pytest.mark.parametrize("kind", SCANS)
def test_labels_of_slicer_land_right(kind, model, tmp_path):
    """They have ITK's view of the scan as their only one."""
    store = StudiesFolder(tmp_path / "studies")
    scan = SCANS[kind](tmp_path / "studies/scan.nii.gz")
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[2:5, 3:7, 4:9] = 1
    image = sitk.GetImageFromArray(drawn.T)
    image.CopyInformation(sitk.ReadImage(str(scan)))
    for suffix in (".nii.gz", ".nrrd"):
        sitk.WriteImage(image, str(tmp_path / f"label{suffix}"))
        submit_label(
            store,
            {"msd_hippocampus": model.bundle},
            Submission("scan", tmp_path / f"label{suffix}", {}, names=["posterior hippocampus"]),
        )
        stored, volume = store.label("scan", "final"), nib.load(scan)
        np.testing.assert_array_equal(np.asarray(nib.load(stored).dataobj), drawn * 2)
        np.testing.assert_array_equal(nib.load(stored).affine, volume.affine)
        assert place(sitk.ReadImage(str(stored))) == place(sitk.ReadImage(str(scan)))
        read_label(stored, read_grid(scan), [2])
    assert bool(store.get_image_info("scan").get("note")) == (kind != "metres")


def test_a_label_beside_a_scan_of_one_opinion(tmp_path):
    scan = read_grid(write_scan(tmp_path / "scan.nii.gz"))
    for name, affine in (("moved", AFFINE + np.eye(4)[:, :1] @ [[0, 0, 0, 0.2]]), ("turned", TURNED)):
        nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), affine), tmp_path / f"{name}.nii.gz")
        with pytest.raises(RequestError, match="the label's affine .* voxels at a corner"):
            read_label(tmp_path / f"{name}.nii.gz", scan, [1])


def test_one_volume_of_four_dimensions(model, tmp_path):
    store = StudiesFolder(tmp_path / "studies")
    scan = tmp_path / "studies/scan.nii.gz"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((*SHAPE, 1), np.float32), AFFINE), scan)
    check_image(scan)
    assert model.segment(scan).voxels.shape == SHAPE
    for name, shape in (("three", SHAPE), ("four", (*SHAPE, 1))):
        label = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(np.ones(shape, np.uint8), AFFINE), label)
        submit_label(store, {"a": model.bundle}, Submission("scan", label, {}))
        assert nib.load(store.label("scan", "final")).shape == SHAPE


def test_a_small_upload_that_takes_gigabytes(tmp_path):
    """Its voxels are bytes, and doubles once they are scaled."""
    header = nib.Nifti1Header()
    header.set_data_shape((1024, 1024, 600))
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(2.0, 1.0)
    path = tmp_path / "a.nii.gz"
    with gzip.open(path, "wb") as file:
        header.write_to(file)
    with pytest.raises(RequestError, match=r"1024 x 1024 x 600 voxels of float64 take 4.7 GiB") as raised:
        check_image(path)
    assert raised.value.status == 413


def test_a_scan_that_would_be_huge_on_the_working_grid(model, tmp_path):
    path = write_scan(tmp_path / "a.nii.gz", affine=np.diag([90.0, 90, 90, 1]), qform=np.diag([90.0, 90, 90, 1]))
    with pytest.raises(RequestError, match=r"the image: 20 x 22 x 24 voxels of 90 x 90 x 90 mm .* at most 0.5 GiB"):
        model.segment(path)


def test_damaged_file(model, tmp_path):
    path = write_scan(tmp_path / "a.nii.gz")
    content = gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=0)
    path.write_bytes(content[:5000] + bytes(400) + content[5400:])
    for call in (check_image, read_voxels, model.segment):
        with pytest.raises(RequestError, match="the file is damaged or cut") as raised:
            call(path)
        assert raised.value.status == 400 and str(tmp_path) not in raised.value.message


@pytest.mark.parametrize(
    ("compress", "damage"),
    [
        (True, lambda content: content[:4000] + bytes(20) + content[4020:]),
        (True, lambda content: content[:-8]),
        (True, lambda content: content + b"junk"),
        (False, lambda content: content[:-8]),
        (False, lambda content: content + b"junk"),
    ],
)
def test_damaged_nrrd(compress, damage, tmp_path):
    """NrrdIO reads some of them, and wrong voxels, without a word."""
    path, voxels = tmp_path / "a.nrrd", np.random.default_rng(0).normal(100, 20, SHAPE).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path), useCompression=compress)
    np.testing.assert_array_equal(read_voxels(path).T, voxels)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RequestError, match="the file cannot be read|the file is cut or goes on"):
        check_image(path)


def test_the_note_of_an_unreadable_file(tmp_path):
    store = StudiesFolder(tmp_path)
    (tmp_path / "a.nii.gz").write_bytes(b"junk")
    note = store.get_image_info("a")["note"]
    assert "cannot be read as NIfTI (4 bytes" in note and str(tmp_path) not in json.dumps(note)
