"""What the app stores is what `rep3d new` reads: labels that were made with clicks, by several users."""

from pathlib import Path

import nibabel as nib
import numpy as np

from monailabel_app.bundles import Bundle
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.studies.submission import submit_label
from rep3d.datasets.sources import read_source

SHAPE = (8, 7, 6)
SEGMENTS = {"ann": ["liver", "tumor"], "bob": ["Tumor", "Liver"], "cyn": ["tumor"], "dan": ["liver", "tumor", "ignore"]}


def test_labels_of_several_users(tmp_path):
    clicks = Bundle(Path("clicks"), {}, "follows clicks", "1", takes_prompts=True)
    studies = tmp_path / "studies"
    studies.mkdir()
    for user in SEGMENTS:
        nib.save(
            nib.Nifti1Image(np.random.default_rng(0).random(SHAPE, np.float32), np.eye(4)), studies / f"{user}.nii"
        )
    store = StudiesFolder(studies)
    for user, names in SEGMENTS.items():
        drawn = np.zeros(SHAPE, np.uint8)
        for value in range(1, len(names) + 1):
            drawn[value] = value
        nib.save(nib.Nifti1Image(drawn, np.eye(4)), tmp_path / "label.nii.gz")
        clicked = [{"labels": {name: [] for name in names if name != "ignore"}}]
        told = {"user": user}
        submit_label(
            *(store, {}, user, tmp_path / "label.nii.gz", "final", told), names=names, prompts=clicked, prompted=clicks
        )
    source = read_source(studies)
    assert source.labels is not None and source.labels.names == {0: "background", 1: "liver", 2: "tumor"}
    assert source.labels.ignored == 3
    ids = {case.name: case.ids for case in source.cases}
    assert ids["ann"] == {1: 1, 2: 2} and ids["bob"] == {1: 2, 2: 1} and ids["dan"] == {1: 1, 2: 2, 3: 3}
    assert [case.name for case in source.cases if case.problem] == ["cyn"]
