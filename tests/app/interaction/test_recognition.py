"""Voxels that came from a client are recognised as those of a scan, and their prompts stored beside its label."""

import json
import time
import tracemalloc
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from interaction_helpers import SHAPE, SPACING, Place, at

from monailabel_app.errors import RequestError
from monailabel_app.interaction.conversation import Conversation
from monailabel_app.interaction.recognition import find_placement, may_be
from monailabel_app.interaction.record import SessionRecord
from monailabel_app.interaction.voxels import compact
from rep3d.interactive.prompts import point

SCAN = np.random.default_rng(0).integers(-1000, 1000, (9, 8, 7)).astype(np.int16)
STEPS = (1.0, 1.5, 3.0)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.mark.parametrize("axes", permutations(range(3)))
def test_any_order_and_direction_of_the_axes(axes):
    """What is clicked on the array lands on the same voxel of the scan."""
    for flipped in product((False, True), repeat=3):
        array = np.ascontiguousarray(
            SCAN.transpose(axes)[tuple(slice(None, None, -1 if flip else 1) for flip in flipped)]
        )
        record = SessionRecord("ann", "", "array", "", "", array.shape, [STEPS[axis] for axis in axes])
        placement = find_placement(array, record.spacing, SCAN, STEPS)
        assert np.array_equal(placement.mask_on_scan(array > 500), SCAN > 500)
        for voxel in ((0, 0, 0), (2, 5, 4), (6, 1, 3)):
            prompt = at(*(v * s / t for v, s, t in zip(voxel, record.spacing, SPACING, strict=True)))
            shown = placement.on_scan(prompt, record, STEPS).positions[0]
            assert SCAN[tuple(round(p / s) for p, s in zip(shown, STEPS, strict=True))] == array[voxel]


@pytest.mark.parametrize(
    ("array", "spacing"),
    [
        (SCAN + 1, STEPS),
        (np.where(np.arange(7) == 3, SCAN + 1, SCAN), STEPS),  # one voxel in many
        (SCAN, (1.0, 1.5, 2.9)),
        (SCAN.transpose(2, 1, 0), STEPS),
        (SCAN[:8], STEPS),
        (SCAN.astype(np.float32) + 0.5, STEPS),
    ],
)
def test_other_scans(array, spacing):
    assert find_placement(np.ascontiguousarray(array), spacing, SCAN, STEPS) is None


@pytest.mark.parametrize("flip", [1, -1])
def test_rounded_spacing_moves_no_prompt(flip):
    """Over many voxels a rounded step adds up to others."""
    scan = np.arange(900, dtype=np.int16).reshape(1, 1, 900)
    record = SessionRecord("ann", "", "array", "", "", (900, 1, 1), (0.703, 1.0, 1.0))
    array, steps = np.ascontiguousarray(scan[..., ::flip].T), (1.0, 1.0, 0.703125 * 1.0005)
    placement = find_placement(array, record.spacing, scan, steps)
    for voxel in (0, 450, 899):
        shown = placement.on_scan(point((voxel, 0, 0), record.spacing), record, steps).positions[0]
        assert scan[0, 0, round(shown[2] / steps[2])] == array[voxel, 0, 0]
        assert shown[2] / steps[2] == pytest.approx(scan[0, 0].tolist().index(array[voxel, 0, 0]), abs=1e-6)


def test_shape_and_spacing_tell_most_apart():
    record = SessionRecord("ann", "", "array", "", "", (7, 8, 9), (3.0, 1.5, 1.0))
    assert may_be(record, (9, 8, 7), STEPS) and not may_be(record, (9, 8, 6), STEPS)
    assert not may_be(record, (9, 8, 7), (1.0, 1.5, 2.0))


def test_an_array_in_another_type_is_the_same_scan(place):
    """As 3D Slicer sends it: the last axis first, in float."""
    array = np.ascontiguousarray(place.voxels().astype(np.float32).transpose(2, 1, 0))
    one = place.sessions.of_array("ann", "nninteractive", array, SPACING[::-1])
    place.sessions.of_array("ann", "nninteractive", array + 1, SPACING[::-1])
    place.sessions.of_array("bob", "nninteractive", array, SPACING[::-1])
    study = place.sessions.of_study("ann", "slicer", "scan")
    assert [found.id for found, _ in place.sessions.of_image("ann", "scan")] == [study.id, one.id]


def test_a_scan_with_a_fractional_scale_is_the_same_as_itk_reads_it(place):
    """Which rounds to float32, as 3D Slicer does."""
    image = nib.Nifti1Image(place.voxels(), np.diag([*SPACING, 1]))
    image.header.set_slope_inter(0.73, 0)
    path = place.folder / "studies/scaled.nii.gz"
    nib.save(image, path)
    array = sitk.GetArrayFromImage(sitk.ReadImage(path))
    one = place.sessions.of_array("ann", "nninteractive", array, SPACING[::-1])
    one.show("kidney", [at(5, 6, 7)])
    study = place.sessions.of_study("ann", "slicer", "scaled")
    assert array.dtype == np.float32 and place.sessions.kept_for(study, one.id, path)[0] is one
    assert [shown["session"] for shown in place.sessions.shown("ann", "scaled")] == [one.id]
    with place.sessions.removing_image("scaled"):
        place.studies.remove_image("scaled")
    assert not list(place.root.iterdir())


def test_prompts_wait_beside_the_label_that_their_user_submits(place, tmp_path):
    array = np.ascontiguousarray(place.voxels().transpose(2, 1, 0))
    sent = place.sessions.of_array("ann", "nninteractive", array, SPACING[::-1])
    prompt = at(5, 6, 7)
    turned = type(prompt)("point", (prompt.positions[0][::-1],))
    sent.show("kidney", [turned])
    study = place.sessions.of_study("ann", "slicer", "scan")
    study.show("liver", [at(10, 11, 12), at(1, 1, 1, positive=False)])
    study.paint("by hand", np.ones(SHAPE, bool))
    place.sessions.of_study("bob", "slicer", "scan").show("liver", [at(2, 2, 2)])
    shown = place.sessions.shown("ann", "scan")
    assert [(one["session"], list(one["labels"])) for one in shown] == [(study.id, ["liver"]), (sent.id, ["kidney"])]
    assert shown[1]["labels"]["kidney"] == [{"kind": "point", "positions": ((5.0, 6.0, 14.0),), "positive": True}]

    label = tmp_path / "label.nii.gz"
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), np.diag([*SPACING, 1])), label)
    place.studies.save_label("scan", str(label), "final", {"user": "ann"}, shown)
    place.studies.save_label("scan", str(label), "final", {"user": "eve"})
    folder = tmp_path / "studies/labels/versions/scan"
    stored = json.loads((folder / "0001.prompts.json").read_text())
    assert stored == json.loads(json.dumps(shown)) and not (folder / "0002.prompts.json").exists()
    assert [version["version"] for version in place.studies.versions("scan")] == [1, 2]


def test_prompts_on_a_lent_scan_are_found_once_it_is_among_the_studies(place):
    """MONAI Label 0.8.5's module for 3D Slicer adds the scan when the label is submitted."""
    other = place.sessions.of_lent("ann", "slicer", place.lent.create(place.write_scan(place.voxels(3)), "ann").name)
    file = place.write_scan(place.voxels(4), "own")
    own = place.sessions.of_lent("ann", "slicer", place.lent.create(file, "ann").name)
    for one in (own, other):
        one.show("atrium", [at(5, 6, 7)])
    (shown,) = place.sessions.shown("ann", "own")
    assert (shown["session"], list(shown["labels"])) == (own.id, ["atrium"])
    assert shown["labels"]["atrium"][0]["positions"] == at(5, 6, 7).positions
    assert place.sessions.shown("bob", "own") == [] and place.sessions.shown(None, "own") == [shown]
    study = place.sessions.of_study("ann", "napari", "own")
    assert place.sessions.kept_for(study, own.id, file)[0] is own
    with pytest.raises(RequestError, match="is of another image"):
        place.sessions.kept_for(study, other.id, file)


def test_a_look_at_a_lent_scan_is_no_use_of_it(place, monkeypatch, caplog):
    lent = place.lent.create(place.folder / "studies/scan.nii.gz", "ann")
    one = place.sessions.of_lent("ann", "slicer", lent.name)
    one.show("liver", [at(5, 5, 5)])
    begin = time.time()
    monkeypatch.setattr(time, "time", lambda: begin + 3000)
    assert [shown["session"] for shown in place.sessions.shown("ann", "scan")] == [one.id]
    monkeypatch.setattr(time, "time", lambda: begin + 4000)
    assert place.sessions.shown("ann", "scan") == [] and "is not compared" in caplog.text


def test_of_kept_arrays_of_other_scans_hardly_anything_is_read(place, monkeypatch):
    """However many there are: with each submission the image is compared with all of them."""
    scan = np.random.default_rng(0).integers(-1000, 1000, (80, 70, 60)).astype(np.int16)
    place.write_scan(scan, "large")
    arrays = [place.sessions.of_array("ann", "napari", scan + np.int16(n), SPACING) for n in range(3)]
    compared, equal = [], np.array_equal
    monkeypatch.setattr(np, "array_equal", lambda one, other: compared.append(one) or equal(one, other))
    assert [one for one, _ in place.sessions.of_image("ann", "large")] == [arrays[0]]
    assert all(isinstance(one, np.memmap) for one in compared)
    assert sorted(one.size for one in compared if one.size > 16**3) == [scan.size]


def test_prompts_of_all_masks_of_a_client_wait(place):
    """One of nnInteractive's knows one mask at a time; those before it are kept."""
    talk = Conversation(place.sessions, "ann")
    talk.set_image(place.voxels(), SPACING)
    prompts = [at(5, 6, 7), at(20, 21, 12), at(30, 6, 18)]
    for prompt in prompts:
        talk.show(prompt, answer=True)
        talk.reset()
    (told,) = place.sessions.shown("ann", "scan")
    kept = {label: [tuple(one["positions"]) for one in some] for label, some in told["labels"].items()}
    names = ("segment 1", "segment 2", "segment")
    assert kept == {name: [prompt.positions] for name, prompt in zip(names, prompts, strict=True)}


def test_a_damaged_session_keeps_no_label_back(place, caplog):
    broken, other = (place.sessions.of_study("ann", client, "scan") for client in ("slicer", "ohif"))
    for one in (broken, other):
        one.show("liver", [at(5, 5, 5)])
    arrays = [place.sessions.of_array("ann", "nninteractive", place.voxels(), SPACING) for _ in range(3)]
    for array, content in zip(arrays, (None, b"", b"junk"), strict=True):
        path = place.root / array.id / "image.npy"
        path.unlink() if content is None else path.write_bytes(content)
    (place.root / broken.id / "0001.label").write_bytes(b"junk")
    broken.leave_memory()
    assert [one["session"] for one in place.sessions.shown("ann", "scan")] == [other.id]
    assert "are left out" in caplog.text and caplog.text.count("is not compared") == 3


@pytest.mark.parametrize("voxels", [np.zeros((*SHAPE, 2), np.int16), np.full(SHAPE, np.nan, np.float32)])
def test_an_image_that_cannot_be_compared_keeps_no_label_back(voxels, place, caplog):
    """It has several channels, or voxels that are no numbers."""
    place.write_scan(voxels, "odd")
    study = place.sessions.of_study("ann", "slicer", "odd")
    place.sessions.of_array("ann", "nninteractive", place.voxels(), SPACING).show("kidney", [at(5, 6, 7)])
    assert [found.id for found, _ in place.sessions.of_image("ann", "odd")] == [study.id]
    assert place.sessions.shown("ann", "odd") == [] and "image odd is not compared with sessions" in caplog.text


# --- what is kept of voxels


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.int32, np.float32, np.float64, bool])
def test_whole_numbers_stay_what_they_are(dtype):
    voxels = (np.arange(24).reshape(2, 3, 4) % (2 if dtype is bool else 200)).astype(dtype)
    kept = compact(np.asfortranarray(voxels))
    assert kept.dtype == np.int16 and kept.flags.c_contiguous and np.array_equal(kept, voxels)


@pytest.mark.parametrize(
    "voxels",
    [
        np.random.default_rng(0).normal(0.5, 0.1, (20, 20, 20)),
        np.random.default_rng(0).normal(1000, 1, (20, 20, 20)).astype(np.float32),
        np.random.default_rng(0).integers(0, 60_000, (20, 20, 20)).astype(np.uint16),
        np.random.default_rng(0).exponential(1e-5, (20, 20, 20)),
        np.random.default_rng(0).integers(0, 2**30, (20, 20, 20)).astype(np.int32),
        np.random.default_rng(0).integers(-1000, 1000, (20, 20, 20)) * 0.73,
    ],
)
def test_others_are_scaled_within_a_thousandth_of_the_window(voxels):
    kept = compact(voxels)
    assert kept.dtype == np.int16
    steps = (voxels - voxels.min()) / (voxels.max() - voxels.min()) * (2**16 - 2) - (2**15 - 1)
    low, high = np.percentile(steps, (0.5, 99.5))
    assert np.abs(kept - steps).max() < 1e-3 * (high - low)
    assert all(np.array_equal(kept, compact(voxels.astype(dtype))) for dtype in (np.float32, np.float64))


@pytest.mark.parametrize("slope", [1, 0.73])
def test_reading_a_scan_takes_what_a_session_may_take(slope, place):
    """Three times its voxels in int16, also where the header scales them."""
    voxels = np.random.default_rng(0).integers(-1000, 1000, (256, 256, 64)).astype(np.int16)
    image = nib.Nifti1Image(voxels, np.eye(4))
    image.header.set_slope_inter(slope, 0)
    nib.save(image, place.folder / "studies/large.nii")
    tracemalloc.start()
    try:
        kept = place.sessions._images.read_file(place.folder / "studies/large.nii")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert kept.dtype == np.int16 and most < 3 * voxels.nbytes + 2**21


def test_what_int16_cannot_tell_apart_stays_float32():
    voxels = np.random.default_rng(0).normal(0.5, 0.1, (20, 20, 20))
    voxels[0, 0, 0] = 1e6
    kept = compact(voxels)
    assert kept.dtype == np.float32 and np.array_equal(kept, voxels.astype(np.float32))
    assert compact(np.full((2, 2, 2), 0.5)).dtype == np.float32


@pytest.mark.parametrize("voxel", [np.nan, np.inf, -np.inf, 1e300])
def test_voxels_that_are_no_numbers(voxel, place):
    voxels = np.zeros(SHAPE)
    voxels[3, 3, 3] = voxel
    with pytest.raises(Exception, match="NaN, infinite or beyond"):
        place.sessions.of_array("ann", "napari", voxels, SPACING)
    assert not list(place.root.iterdir())


@pytest.mark.parametrize(
    ("voxels", "spacing", "match"),
    [
        (np.zeros((3, 3)), SPACING, "expected three axes"),
        (np.zeros((1, 3, 3, 3)), SPACING, "expected three axes"),
        (np.zeros((3, 0, 3)), SPACING, "expected three axes"),
        (np.zeros((5000, 1, 1)), SPACING, "at most 4096 an axis"),
        (np.zeros((3, 3, 3), complex), SPACING, "expected numbers"),
        (np.zeros((3, 3, 3)), (1, 1), "expected three numbers of millimetres"),
        (np.zeros((3, 3, 3)), (1, 0, 1), "expected three numbers of millimetres"),
        (np.zeros((3, 3, 3)), (1, float("nan"), 1), "expected three numbers of millimetres"),
    ],
)
def test_arrays_that_are_no_scans(voxels, spacing, match, place):
    with pytest.raises(Exception, match=match) as caught:
        place.sessions.of_array("ann", "napari", voxels, spacing)
    assert caught.value.status in (400, 413) and not list(place.root.iterdir())
