"""A real volume that every checkout has, in any order of its voxels. tests/test_bundles.py has larger ones."""

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import INFERENCE, ROOT, assert_label_map, label_names, run, small_network

BUNDLE = ROOT / "bundles/msd_hippocampus"
SCAN = ROOT / "tests/fixtures/hippocampus/hippocampus_148.nii.gz"


def reoriented(volume, codes: str):
    wanted = nib.orientations.axcodes2ornt(codes)
    return volume.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(volume.affine), wanted))


@pytest.mark.slow
def test_the_same_labels_at_the_same_places(tmp_path):
    (tmp_path / "models").mkdir()
    torch.save(small_network(BUNDLE).state_dict(), tmp_path / "models/model.pt")
    label_maps = []
    for codes in ("RAS", "LAS", "IPL"):
        scan = tmp_path / f"{codes}.nii.gz"
        nib.save(reoriented(nib.load(SCAN), codes), scan)
        run(BUNDLE, INFERENCE, scan, tmp_path, patch_size=[32, 48, 32])
        written = tmp_path / f"eval/{codes}_seg.nii.gz"
        assert_label_map(written, scan, len(label_names(BUNDLE)))
        label_maps.append(np.asarray(reoriented(nib.load(written), "RAS").dataobj))
    assert len(np.unique(label_maps[0])) > 1
    for label_map in label_maps[1:]:
        assert (label_map == label_maps[0]).mean() > 0.999
