"""Data sets whose images have two channels, and a bundle for them."""

import json

import nibabel as nib
import numpy as np

from rep3d import installed
from rep3d.datasets.machine import Machine
from rep3d.datasets.own_bundle import new_bundle

LAPTOP = Machine(16e9, False, "a laptop", 16e9)
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
SHAPE = (20, 18, 12)
NAMES = ["T2w", "ADC"]


def save(path, voxels, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)


def case(number, scales=(1.0, 40.0)):
    """A label map, and the channels (D, H, W, C) of an image that shows its organ in another unit each."""
    label = np.zeros(SHAPE, np.uint8)
    label[4:12, 5:15, 3:9] = 1
    noise = np.random.default_rng(number).normal(0, 5, (*SHAPE, len(scales)))
    return label, ((100 + 30.0 * label[..., None] + noise) * scales).astype(np.float32)


def describe(folder, **content):
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def in_one_file(folder, count=3):
    """As the Decathlon has them."""
    for number in range(count):
        label, image = case(number)
        save(folder / f"imagesTr/c{number}.nii.gz", image)
        save(folder / f"labelsTr/c{number}.nii.gz", label)
    pairs = [{"image": f"imagesTr/c{i}.nii.gz", "label": f"labelsTr/c{i}.nii.gz"} for i in range(count)]
    modality = dict(zip("01", NAMES, strict=True))
    return describe(folder, labels={"0": "background", "1": "organ"}, modality=modality, training=pairs)


def in_one_each(folder, count=3):
    """As nnU-Net's version 2 has them."""
    for number in range(count):
        label, image = case(number)
        for channel in range(2):
            save(folder / f"imagesTr/c{number}_{channel:04d}.nii.gz", image[..., channel])
        save(folder / f"labelsTr/c{number}.nii.gz", label)
    channel_names = dict(zip("01", NAMES, strict=True))
    return describe(folder, labels={"background": 0, "organ": 1}, channel_names=channel_names, file_ending=".nii.gz")


def make(tmp_path, source, **told):
    return new_bundle("mine", source, tmp_path / "bundles", root=installed.root(), machine=LAPTOP, **told)
