"""Bundles on scans with headers and intensities that lead others astray."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import EVALUATE, INFERENCE, ROOT, TRAIN, run, small_network
from monai.utils import set_determinism

from rep3d.console.errors import root_cause
from rep3d.data import notes
from rep3d.evaluation.scores import read_scores

HIPPOCAMPUS, PANCREAS = (ROOT / "bundles" / name for name in ("msd_hippocampus", "msd_pancreas"))
AFFINE = nib.affines.from_matvec(np.eye(3), (-20, 10, 5))


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    monkeypatch.setattr(notes, "_said", set())
    yield
    set_determinism(None)


def save(path, voxels, affine=AFFINE, unit="mm", qform=None, codes=(1, 1)):
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = nib.Nifti1Image(voxels, affine)
    volume.set_qform(affine if qform is None else qform, codes[0])
    volume.set_sform(affine, codes[1])
    volume.header.set_xyzt_units(unit)
    nib.save(volume, path)


def scans(folder):
    """One anatomy on one grid, under headers of all kinds; returns the voxels."""
    grid = np.indices((36, 40, 36)).reshape(3, -1)
    ball = ((grid - [[15], [20], [18]]) ** 2).sum(0).reshape(36, 40, 36) < 60
    voxels = (100 + 60 * ball + np.random.default_rng(0).normal(0, 5, ball.shape)).astype(np.float32)
    save(folder / "mm.nii.gz", voxels)
    for unit, size in (("meter", 1e-3), ("micron", 1e3)):
        save(folder / f"{unit}.nii.gz", voxels, np.diag([size, size, size, 1]) @ AFFINE, unit)
    save(folder / "4d.nii.gz", voxels[..., None])
    turned = nib.affines.from_matvec(nib.eulerangles.euler2mat(z=0.5), (100, 50, 0))
    save(folder / "two_opinions.nii.gz", voxels, qform=turned, codes=(1, 2))
    save(folder / "no_codes.nii.gz", voxels, codes=(0, 0))
    content = gzip.compress(gzip.decompress((folder / "mm.nii.gz").read_bytes()), compresslevel=0)
    (folder / "damaged.nii.gz").write_bytes(content[:5000] + bytes(400) + content[5400:])
    save(folder / "complex.nii.gz", voxels.astype(np.complex64))
    return voxels


@pytest.mark.slow
def test_one_anatomy_under_all_headers(tmp_path, caplog):
    sitk = pytest.importorskip("SimpleITK")
    scans(tmp_path / "scans")
    (tmp_path / "models").mkdir()
    torch.save(small_network(HIPPOCAMPUS).state_dict(), tmp_path / "models/model.pt")
    with pytest.raises(RuntimeError) as raised:
        run(HIPPOCAMPUS, INFERENCE, tmp_path / "scans", tmp_path)
    message = str(root_cause(raised.value))
    assert message.startswith("2 of 8 case(s) could not be segmented")
    assert "damaged.nii.gz: the file is damaged" in message and "complex.nii.gz: the voxels are complex" in message
    labels = {path.name.removesuffix("_seg.nii.gz"): path for path in (tmp_path / "eval").glob("*_seg.nii.gz")}
    assert sorted(labels) == ["4d", "meter", "micron", "mm", "no_codes", "two_opinions"]
    expected = np.asarray(nib.load(labels["mm"]).dataobj)
    assert len(np.unique(expected)) > 1
    for name, path in labels.items():
        if name != "no_codes":  # nibabel mirrors it
            np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), expected, err_msg=name)
        scan, label = (sitk.ReadImage(str(file)) for file in (tmp_path / f"scans/{name}.nii.gz", path))
        for place in ("GetOrigin", "GetSpacing", "GetDirection"):
            assert getattr(label, place)() == getattr(scan, place)()
    warned = [r.getMessage() for r in caplog.records if r.name == "rep3d.data.notes"]
    assert [text.split("scans/")[1].split(":")[0] for text in warned] == ["no_codes.nii.gz", "two_opinions.nii.gz"]


def write_air(folder, spacing):
    """A CT data set in which the cases 1 and 5 are nothing but air."""
    pairs, noise = [], np.random.default_rng(0)
    for case in range(8):
        image, label = np.full((36, 40, 36), -1000, np.int16), np.zeros((36, 40, 36), np.uint8)
        if case not in (1, 5):
            image[4:-4, 4:-4, 4:-4] = 40
            label[14:20, 16:24, 14:22], label[20:24, 16:24, 14:22] = 1, 2
            image[label > 0] = 140
            image += noise.normal(0, 10, image.shape).astype(np.int16)
        pairs.append({"image": f"images/ct_{case}.nii.gz", "label": f"labels/ct_{case}.nii.gz"})
        for voxels, path in ((image, pairs[-1]["image"]), (label, pairs[-1]["label"])):
            save(folder / path, voxels, np.diag([*spacing, 1]))
    lists = {"training": pairs[:4], "validation": pairs[7:], "test": pairs[4:7]}
    (folder / "dataset.json").write_text(json.dumps(lists))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("bundle", [PANCREAS, HIPPOCAMPUS], ids=lambda bundle: bundle.name)
def test_air(bundle, tmp_path, caplog):
    """It trains, gets a label map of background, and costs no other case its scores."""
    dataset = write_air(tmp_path / "data", (1.5, 1.5, 2) if bundle == PANCREAS else (1, 1, 1))
    run(bundle, TRAIN, dataset, tmp_path, **{"train#trainer#epoch_length": 4})
    run(bundle, EVALUATE, dataset, tmp_path)
    assert sorted(read_scores(tmp_path / "eval")) == ["ct_4", "ct_5", "ct_6"]
    warned = [r.getMessage().split(":")[0][-11:] for r in caplog.records if r.name == "rep3d.data.notes"]
    odd = (1, 5) if bundle == PANCREAS else range(8)  # the hippocampus' bundle is of MR
    assert sorted(warned) == [f"ct_{case}.nii.gz" for case in odd]
    run(bundle, INFERENCE, dataset / "images/ct_1.nii.gz", tmp_path)
    label = np.asarray(nib.load(tmp_path / "eval/ct_1_seg.nii.gz").dataobj)
    assert label.shape == (36, 40, 36) and not label.any()
