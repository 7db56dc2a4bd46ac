"""The short score by which networks that follow clicks are told better or worse."""

import csv

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.inferers import SimpleInferer
from torch import nn

from rep3d.evaluation import check_clicks


def network(bias):
    """A voxel is in the mask where it is bright, or with a large bias everywhere."""
    made = nn.Conv3d(5, 1, 1)
    made.load_state_dict({"weight": torch.tensor([9.0, 0, 0, 0, 0]).view(1, 5, 1, 1, 1), "bias": torch.tensor([bias])})
    return made.eval()


def items(folder, labels=5):
    """Two cases; one label of each has too few voxels."""
    found = []
    for number in range(2):
        label = np.zeros((24, 20, 20), np.uint8)
        for index in range(labels):
            label[4 * index : 4 * index + 3, 3:15, 3:15] = index + 1
        label[23, 19, 19] = 9
        image = 300.0 * (label > 0) + np.random.default_rng(number).normal(0, 1, label.shape)
        item = {"image": str(folder / f"case_{number}.nii.gz"), "label": str(folder / f"label_{number}.nii.gz")}
        nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), item["image"])
        nib.save(nib.Nifti1Image(label, np.eye(4)), item["label"])
        found.append(item)
    return found


def rows(folder):
    with (folder / "checked_clicks.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_same_few_structures_for_all_networks(tmp_path):
    cases = items(tmp_path)
    good = check_clicks(network(0.0), SimpleInferer(), cases, tmp_path, size=24)
    first = rows(tmp_path)
    bad = check_clicks(network(99.0), SimpleInferer(), cases[::-1], tmp_path, size=24)
    second = rows(tmp_path)
    assert good > bad + 0.2
    assert good == pytest.approx(np.mean([float(row["dice"]) for row in first]), abs=1e-6)
    chosen = [{(row["case"], row["label"]) for row in found} for found in (first, second)]
    assert chosen[0] == chosen[1] and len(chosen[0]) == 6 and not {label for _, label in chosen[0]} & {"0", "9"}


def test_nothing_to_click_on(tmp_path):
    with pytest.raises(ValueError, match=r"none of the 2 case\(s\) has a label of at least 8 voxels"):
        check_clicks(network(0.0), SimpleInferer(), items(tmp_path, labels=0), tmp_path, size=24)
