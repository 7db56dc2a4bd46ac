"""Images and labels that come from outside: what is refused, and in which words."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from monailabel_app.errors import RequestError
from monailabel_app.studies import volumes
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.studies.submission import Submission, submit_label
from monailabel_app.studies.volumes import check_image, read_grid, read_label, read_voxels, split_suffix
from rep3d.io.geometry import TOLERANCE, plain_geometry

AFFINE = np.array([[-1.5, 0, 0, 10], [0, 0, 2.0, -20], [0, 3.0, 0, 30], [0, 0, 0, 1]])


def save(path, voxels, affine=AFFINE):
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.nii.gz", ("a", ".nii.gz")), ("a.b.NRRD", ("a.b", ".nrrd")), ("x.seg.nrrd", ("x", ".seg.nrrd"))],
)
def test_suffixes(name, expected):
    assert split_suffix(name) == expected


def test_unknown_suffix():
    with pytest.raises(RequestError, match=r"'a.zip' has no known suffix"):
        split_suffix("a.zip")


@pytest.mark.parametrize(
    ("shape", "value", "message"),
    [
        ((4, 4), 0, "expected three dimensions"),
        ((4, 4, 4, 2, 3), 0, "expected three dimensions"),
        ((2, 2, 5000), 0, "at most"),
        ((2, 2, 2), np.nan, "NaN or infinite"),
        ((2, 2, 2), np.inf, "NaN or infinite"),
    ],
)
def test_images_that_no_network_can_take(shape, value, message, tmp_path):
    with pytest.raises(RequestError, match=message):
        check_image(save(tmp_path / "a.nii.gz", np.full(shape, value, dtype=np.float32)))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd"])
@pytest.mark.parametrize("content", [b"", b"junk" * 100], ids=["empty", "junk"])
def test_files_that_are_none(suffix, content, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    message = "no NRRD file" if suffix == ".nrrd" else rf"cannot be read as NIfTI \({len(content)} bytes; "
    with pytest.raises(RequestError, match=message) as caught:
        check_image(path)
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("field", ["data file", "DATAFILE", "Data File"])
def test_a_header_that_names_another_file(field, tmp_path):
    """Its voxels would be read from wherever the sender likes."""
    (tmp_path / "secret").write_bytes(b"TOP SECRET")
    path = tmp_path / "a.nrrd"
    header = f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 1 1 1\nencoding: raw\n{field}: {tmp_path}/secret\n\n"
    path.write_text(header)
    for call in (read_grid, read_voxels, check_image):
        with pytest.raises(RequestError, match="no NRRD file with its voxels inside"):
            call(path)


def test_truncated_file(tmp_path):
    path = save(tmp_path / "a.nii.gz", np.random.default_rng(0).random((20, 20, 20)))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(RequestError, match="voxels cannot be read"):
        check_image(path)


def test_a_small_file_that_declares_a_huge_image(tmp_path):
    """Refused by its header: nothing of that size is unpacked."""
    header = nib.Nifti1Header()
    header.set_data_shape((4000, 4000, 4000))
    header.set_data_dtype(np.uint8)
    path = tmp_path / "a.nii"
    with path.open("wb") as file:
        header.write_to(file)
        file.write(b"\0" * 100)
    with pytest.raises(RequestError) as caught:
        check_image(path)
    assert caught.value.status == 413


def test_label(tmp_path):
    voxels = np.array([0, 1, 2, 0, 0, 1, 2, 2], dtype=np.float64).reshape(2, 2, 2)
    grid = plain_geometry((2, 2, 2), AFFINE + np.eye(4)[:, :1] @ [[0, 0, 0, 1.5 * 0.9 * TOLERANCE]])
    np.testing.assert_array_equal(read_label(save(tmp_path / "a.nii.gz", voxels), grid, [1, 2]), voxels)


@pytest.mark.parametrize(
    ("voxels", "affine", "message"),
    [
        (np.ones((2, 2, 3)), AFFINE, "shape"),
        (np.ones((2, 2, 2)), AFFINE + 1, "label's affine .* differs by"),
        (np.full((2, 2, 2), 3.0), AFFINE, r"1 other label value\(s\) than the expected \[0, 1, 2\]"),
        (np.full((2, 2, 2), 0.5), AFFINE, r"1 other label value\(s\)"),
        (np.full((2, 2, 2), -1.0), AFFINE, r"1 other label value\(s\)"),
        (np.zeros((2, 2, 2)), AFFINE, "the label is empty"),
    ],
    ids=["shape", "affine", "id", "fraction", "negative", "empty"],
)
def test_labels_that_do_not_fit(voxels, affine, message, tmp_path):
    with pytest.raises(RequestError, match=message):
        read_label(save(tmp_path / "a.nii.gz", voxels, affine), plain_geometry((2, 2, 2), AFFINE), [1, 2])


def test_empty_label_on_request(tmp_path):
    path = save(tmp_path / "a.nii.gz", np.zeros((2, 2, 2)))
    assert not read_label(path, plain_geometry((2, 2, 2), AFFINE), [1, 2], allow_empty=True).any()


def test_waiting_uploads_are_bounded(tmp_path, monkeypatch):
    """While one is looked at, MAX_WAITING wait; those after them are told to come again, and a later one is let in."""
    path = save(tmp_path / "a.nii.gz", np.ones((2, 2, 2)))
    go_on, inside = threading.Event(), threading.Event()

    def read_grid_slowly(path):
        inside.set()
        assert go_on.wait(30)
        return read_grid(path)

    monkeypatch.setattr(volumes, "read_grid", read_grid_slowly)
    with ThreadPoolExecutor(volumes.MAX_WAITING + 2) as pool:
        waiting = [pool.submit(volumes.check_upload, path) for _ in range(volumes.MAX_WAITING + 1)]
        assert inside.wait(30)
        while volumes._admitted._value:
            time.sleep(0.01)
        refused = pool.submit(volumes.check_upload, path).exception(timeout=10)
        go_on.set()
        assert isinstance(refused, RequestError) and refused.status == 503
        assert "8 uploads are waiting already" in refused.message
        assert [one.result() for one in waiting] == [None] * len(waiting)
    volumes.check_upload(path)


def test_a_pipe_among_the_studies(tmp_path):
    """It is not opened: that would last until somebody writes to it."""
    store = StudiesFolder(tmp_path)
    os.mkfifo(tmp_path / "pipe.nii.gz")
    for use in (store.image, store.checksum):
        with pytest.raises(RequestError, match="not a regular file|there is no image"):
            use("pipe")


@pytest.mark.parametrize("names", [["anterior", "posterior", "anterior"], ["a"] * 300, [" Anterior", "anterior "]])
def test_two_segments_of_one_name(names, tmp_path):
    """Which of them counts nobody knows; they are not taken for one."""
    store = StudiesFolder(tmp_path)
    save(tmp_path / "scan.nii.gz", np.ones((2, 2, 2), np.float32))
    label = save(tmp_path / "labels/label.nii.gz", np.ones((2, 2, 2), np.uint8))
    bundle = SimpleNamespace(name="one", labels={"anterior": 1, "posterior": 2})
    with pytest.raises(RequestError, match="segments have the name 'a") as caught:
        submit_label(store, {"one": bundle}, Submission("scan", label, {}, names=names))
    assert caught.value.status == 400 and str(tmp_path) not in caught.value.message


def test_blanks_around_names(tmp_path):
    store = StudiesFolder(tmp_path)
    save(tmp_path / "scan.nii.gz", np.ones((2, 2, 2), np.float32))
    label = save(tmp_path / "labels/label.nii.gz", np.ones((2, 2, 2), np.uint8))
    bundle = SimpleNamespace(name="one", labels={"anterior": 1, "posterior": 2})
    submit_label(store, {"one": bundle}, Submission("scan", label, {}, names=["background", " posterior "]))
    assert (read_voxels(store.label("scan", "final")) == 2).all()


def test_reading_has_a_time_limit(tmp_path, monkeypatch):
    path = save(tmp_path / "a.nii.gz", np.ones((2, 2, 2)))
    monkeypatch.setattr(volumes, "MAX_SECONDS", 0)
    for check in (check_image, lambda path: read_label(path, read_grid(path), [1])):
        with pytest.raises(RequestError, match="it takes too long"):
            check(path)
