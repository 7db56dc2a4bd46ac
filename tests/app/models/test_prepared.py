"""Images after preprocessing are prepared once, and kept no longer than they may be."""

import os
import threading
import time

import nibabel as nib
import numpy as np
import pytest
import torch
from app_helpers import small_bundle

from monailabel_app.bundles import read_bundle
from monailabel_app.errors import RequestError
from monailabel_app.models import inference, prepared
from monailabel_app.models.inference import BundleInference, serve_bundles
from monailabel_app.models.prepared import PreparedImage, PreparedImages
from monailabel_app.models.turn import Priority
from monailabel_app.models.uncertainty import disagreement, score_image
from monailabel_app.studies.sessions import Sessions
from rep3d.io.geometry import plain_geometry

VOXELS = (10, 10, 10)
NBYTES = 4 * 10**3


class Images(PreparedImages):
    """Counts what is prepared."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.prepared = []

    def of(self, image, config, priority=Priority.SEGMENTATION, reading=lambda: None):
        def prepare():
            self.prepared.append(image.name)
            reading()
            voxels = torch.full((1, *VOXELS), float(len(self.prepared)))
            return PreparedImage({"image": voxels}, plain_geometry(VOXELS, np.eye(4)))

        return self.get(image, [config], prepare, priority)


@pytest.fixture
def files(tmp_path):
    """Four images and a config."""
    paths = [tmp_path / name for name in ("a.nii.gz", "b.nii.gz", "c.nii.gz", "d.nii.gz", "inference.json")]
    for path in paths:
        path.write_bytes(b"content")
    return paths


def test_prepared_once(files):
    image, other, *_, config = files
    images = Images()
    first = images.of(image, config)
    assert images.of(image, config) is first and images.of(other, config) is not first
    assert images.prepared == ["a.nii.gz", "b.nii.gz"]
    assert first.nbytes == NBYTES == first.data["image"].numpy().nbytes and images.nbytes == 2 * NBYTES


def test_as_many_as_fit(files):
    """The one that was used longest ago goes first; one that is too large is not kept, and takes none away."""
    first, second, third, fourth, config = files
    images = Images(max_bytes=2 * NBYTES + 10)
    for image in (first, second, first, third):
        images.of(image, config)
        assert images.nbytes <= images.max_bytes
    assert images.nbytes == 2 * NBYTES
    for image in (first, third):
        images.of(image, config)
    assert images.prepared == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    huge = PreparedImage({"image": torch.zeros(1, 20, 20, 20)}, plain_geometry((20, 20, 20), np.eye(4)))
    assert images.get(fourth, [config], lambda: huge, Priority.BATCH) is huge
    assert images.nbytes == 2 * NBYTES


def rewrite(path):
    """The same number of bytes, and the time of the modification set back."""
    before = path.stat()
    path.write_bytes(b"CONTENT")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def touch(path):
    os.utime(path, ns=(0, 1))


def replace(path):
    path.with_suffix(".new").write_bytes(b"content")
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("change", [rewrite, touch, replace])
@pytest.mark.parametrize("which", [0, -1])
def test_a_file_or_config_that_changes(files, change, which):
    image, config = files[0], files[-1]
    images = Images()
    before = images.of(image, config)
    time.sleep(0.02)  # a tick of the file system's clock
    change(files[which])
    assert images.of(image, config) is not before
    assert images.nbytes == NBYTES  # the old one is gone


def test_a_file_that_changes_while_it_is_read(files):
    image, *_, config = files
    images = Images()
    images.of(image, config, reading=lambda: touch(image))
    assert images.nbytes == 0
    images.of(image, config)
    assert len(images.prepared) == 2


def test_a_file_that_is_gone(files):
    image, *_, config = files
    images = Images()
    images.of(image, config)
    image.unlink()
    with pytest.raises(RequestError, match="the image is gone"):
        images.of(image, config)
    images.sweep()
    assert images.nbytes == 0


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_session_leaves_nothing_behind(files, tmp_path, monkeypatch):
    """Without any further request: neither the scan nor what was made of it."""
    monkeypatch.setattr(prepared, "SWEEP_SECONDS", 0.05)
    sessions, images = Sessions(tmp_path / "sessions"), Images()
    session = sessions.create(files[0], "ann")
    images.of(sessions.image(session.name, "ann"), files[-1])
    time.sleep(0.2)
    assert images.nbytes == NBYTES
    sessions.remove(session.name, "ann")
    wait_until(lambda: images.nbytes == 0)


def test_nothing_is_kept_that_nobody_uses(files, monkeypatch):
    monkeypatch.setattr(prepared, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(prepared, "KEPT_SECONDS", 0.3)
    images = Images()
    images.of(files[0], files[-1])
    wait_until(lambda: images.nbytes == 0)
    images.of(files[0], files[-1])  # and again
    wait_until(lambda: images.nbytes == 0)


def test_who_is_kept_waits_for_nobody(files):
    """One image is prepared at a time, the more urgent first; two that want the same one prepare it once."""
    kept, slow, same, urgent, config = files
    images, entered, go_on = Images(), threading.Event(), threading.Event()
    images.of(kept, config)
    reading = lambda: (entered.set(), go_on.wait(10))  # noqa: E731
    arguments = [
        (slow, config, Priority.BATCH, reading),
        (same, config, Priority.BATCH),
        (same, config, Priority.SCORING),
        (urgent, config, Priority.CLICK),
    ]
    threads = []
    for number, argument in enumerate(arguments, 1):
        threads.append(threading.Thread(target=images.of, args=argument))
        threads[-1].start()
        assert entered.wait(10)
        wait_until(lambda number=number: len(images._turn._line) == number)
    images.of(kept, config)
    assert images.prepared == [kept.name, slow.name]
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert images.prepared == [kept.name, slow.name, urgent.name, same.name]


def test_an_image_that_cannot_be_prepared(files):
    def fail():
        raise RequestError(400, "no image")

    images = Images()
    for _ in range(2):
        with pytest.raises(RequestError, match="no image"):
            images.get(files[0], files[-1:], fail, Priority.BATCH)
    images.of(files[0], files[-1])


# --- with bundles


@pytest.fixture
def preparations(monkeypatch):
    """The names of the images that bundles prepare."""
    names, prepare = [], inference._prepare

    def counted(image, preprocessing):
        names.append(image.name)
        return prepare(image, preprocessing)

    monkeypatch.setattr(inference, "_prepare", counted)
    return names


@pytest.fixture
def scan(tmp_path):
    """A body in air, which some bundles crop."""
    voxels = np.full((60, 50, 40), -1000, np.float32)
    voxels[20:40, 10:40, 10:30] = np.random.default_rng(0).normal(60, 30, (20, 30, 20))
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(voxels, np.diag([1.2, 1.1, 1.5, 1])), path)
    return path


@pytest.mark.slow
def test_results_are_the_same(tmp_path, scan, preparations):
    """Of the image that is kept, after presets and scores that use it, and of one that is prepared anew."""
    model = BundleInference(read_bundle(small_bundle(tmp_path, "amos_ct")))
    first = model.segment(scan)
    image = model.prepare(scan, Priority.CLICK).data["image"]
    before = image.clone()
    score_image(model, scan)
    disagreement(model, scan, [model.bundle.weights] * 2)
    model.segment(scan, preset="accurate", priority=Priority.BATCH)
    again = model.segment(scan)
    assert preparations == ["scan.nii.gz"]
    assert torch.equal(image, before) and image.meta["filename_or_obj"] == before.meta["filename_or_obj"]
    anew = BundleInference(model.bundle).segment(scan)
    assert len(preparations) == 2 and first.voxels.any()
    for result in (again, anew):
        np.testing.assert_array_equal(result.voxels, first.voxels)
        np.testing.assert_array_equal(result.grid.affine, first.grid.affine)
        assert result.note == first.note


def test_a_crop_does_not_keep_the_scan(tmp_path, scan):
    model = BundleInference(read_bundle(small_bundle(tmp_path, "amos_ct")))
    image = model.prepare(scan, Priority.CLICK).data["image"]
    assert image.untyped_storage().nbytes() == image.nbytes


def test_bundles_prepare_for_themselves(tmp_path, scan, preparations):
    """And share the room for what is kept."""
    names = ("amos_ct", "msd_hippocampus")
    models = serve_bundles({name: read_bundle(small_bundle(tmp_path, name)) for name in names})
    shapes = {models[name].prepare(scan, Priority.BATCH).data["image"].shape for name in names * 2}
    assert len(shapes) == 2 and preparations == ["scan.nii.gz"] * 2
    assert models["amos_ct"]._images is models["msd_hippocampus"]._images
    assert models["amos_ct"].turn is models["msd_hippocampus"].turn
