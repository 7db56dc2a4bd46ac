"""What the app stores is what `rep3d new` reads: labels that were made with clicks, or are of a bundle."""

import re
from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import TRAIN, run
from channel_helpers import SHAPE, make, save

from monailabel_app.bundles import Bundle
from monailabel_app.models.retraining.labels import describe_absent, describe_exchanged
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.studies.submission import Submission, submit_label
from rep3d.data.leakage import image_digests, trained_images
from rep3d.datasets import own_bundle
from rep3d.datasets.sources import read_source
from rep3d.training.checkpoints import read_weights

CLICKS = Bundle(Path("clicks"), {}, "follows clicks", "1", takes_prompts=True)
ORGANS = Bundle(Path("organs"), {"liver": 1, "tumor": 2}, "segments", "1")
SEGMENTS = {"ann": ["liver", "tumor"], "bob": ["Tumor", "Liver"], "cyn": ["tumor"], "dan": ["liver", "tumor", "ignore"]}


def save_scan(studies, name, seed):
    save(studies / f"{name}.nii", np.random.default_rng(seed).normal(100, 5, SHAPE).astype(np.float32))


def submit(store, bundles, image, names, empty=(), prompts=(), **whose):
    """A label with a slab for each segment that is not empty."""
    drawn = np.zeros(SHAPE, np.uint8)
    for value, name in enumerate(names, 1):
        if name not in empty:
            drawn[4 * value : 4 * value + 4, 5:15, 3:9] = value
    file = store.root.parent / "label.nii.gz"
    save(file, drawn)
    submit_label(store, bundles, Submission(image, file, {"user": image}, names=names, prompts=prompts), **whose)


@pytest.fixture
def store(tmp_path):
    """A scan for each user."""
    for seed, user in enumerate(SEGMENTS):
        save_scan(tmp_path / "studies", user, seed)
    return StudiesFolder(tmp_path / "studies")


@pytest.fixture
def clicked(store):
    """The same, labelled with clicks."""
    for user, names in SEGMENTS.items():
        prompts = [{"labels": {name: [] for name in names if name != "ignore"}}]
        submit(store, {}, user, names, prompts=prompts, prompted=CLICKS)
    return store


def test_labels_of_several_users(clicked):
    source = read_source(clicked.root)
    assert source.labels is not None and source.labels.names == {0: "background", 1: "liver", 2: "tumor"}
    assert source.labels.ignored == 3
    ids = {case.name: case.ids for case in source.cases}
    assert ids["ann"] == {1: 1, 2: 2} and ids["bob"] == {1: 2, 2: 1} and ids["dan"] == {1: 1, 2: 2, 3: 3}
    assert [case.name for case in source.cases if case.problem] == ["cyn"]


def test_a_segment_that_the_scan_does_not_show_finishes_a_label(clicked):
    """Submitted again with it, as the report says; the empty segments of bundles and of programs are none of it."""
    whose = {"prompts": [{"labels": {"tumor": []}}], "prompted": CLICKS, "nameless": re.compile("Segment_1")}
    names = ["tumor", "liver", "spleen", "Segment_1"]
    spleens = Bundle(Path("spleens"), {"spleen": 1}, "segments", "1")
    submit(clicked, {"spleens": spleens}, "cyn", names, empty=names[1:], **whose)
    info = clicked.get_label_info("cyn", "final")
    assert info["label_names"] == {"tumor": 1, "liver": 2} and info["absent"] == ["liver"]
    source = read_source(clicked.root)
    assert not [case.name for case in source.cases if case.problem]
    assert "no liver in 1 of 4 label(s), such as cyn" in source.notes[-1]


def test_what_a_retraining_would_say(store):
    """In the same words: of a segment that is there and empty, as 3D Slicer submits it, and of an exchanged image."""
    users = ["ann", "bob", "cyn"]
    for user in users:
        submit(store, {"organs": ORGANS}, user, list(ORGANS.labels), empty=["tumor"] if user == "bob" else [])
    save_scan(store.root, "cyn", seed=9)
    exchanged, absent = read_source(store.root).notes
    assert exchanged == "1 image(s) are other files than those that were labelled, check them: cyn"
    assert absent == "what a label does not show counts as background: no tumor in 1 of 3 label(s), such as bob"
    assert (exchanged, absent) == (describe_exchanged(users, store), describe_absent(ORGANS, users, store))


@pytest.mark.slow
def test_they_train_a_bundle(clicked, tmp_path, monkeypatch):
    """From what several users submitted to a step of a training, without those that are not finished."""
    monkeypatch.setattr(own_bundle, "write_fingerprint", lambda *_: None)  # its pictures take a second each
    made = make(tmp_path, clicked.root)
    assert made.labels.names == ["background", "liver", "tumor"] and list(made.problems) == ["cyn"]
    step = {"steps_per_epoch": 1, "train#trainer#epoch_length": 1}
    run(made.folder, TRAIN, made.folder / "data", tmp_path / "out", **step)
    trained = trained_images(read_weights(tmp_path / "out/models/model.pt")).keys()
    images = image_digests([str(clicked.root / f"{user}.nii") for user in ("ann", "bob", "dan")])
    assert len(trained) == 2 and trained < set(images.values())
