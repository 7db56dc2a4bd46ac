"""The app serves a bundle of several channels from studies that hold files of four dimensions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from bundle_helpers import small_network
from channel_helpers import AFFINE, NAMES, SHAPE, case, in_one_file, make, save
from prompt_helpers import prompt_bundle

from monailabel_app.bundles import read_bundle
from monailabel_app.errors import RequestError
from monailabel_app.models.inference import serve_bundles
from monailabel_app.models.retraining.dataset import write_dataset
from monailabel_app.models.retraining.labels import find_labelled
from monailabel_app.models.uncertainty import score_image
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.studies.submission import Submission, submit_label
from monailabel_app.studies.volumes import check_image, read_voxels
from rep3d.data.checks import check_datalist
from rep3d.data.lists import load_datalist
from rep3d.datasets import own_bundle


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setattr(own_bundle, "write_fingerprint", lambda *_: None)
    folder = make(tmp_path, in_one_file(tmp_path / "source")).folder
    path = folder / "models/trained/model.pt"
    path.parent.mkdir(parents=True)
    torch.save(small_network(folder, {}).state_dict(), path)
    return read_bundle(folder)


@pytest.fixture
def studies(tmp_path, bundle):
    save(tmp_path / "studies/both.nii.gz", case(7)[1])
    save(tmp_path / "studies/one.nii.gz", case(7)[1][..., 0])
    return StudiesFolder(tmp_path / "studies")


def test_inference(bundle, studies):
    (model,) = serve_bundles({bundle.name: bundle}).values()
    assert model.segment(studies.image("both")).voxels.shape == SHAPE
    assert 0 <= score_image(model, studies.image("both")).entropy <= 1
    expected = r"1 channel\(s\), expected 2 in one file of four dimensions: T2w, ADC$"
    with pytest.raises(RequestError, match=expected) as caught:
        model.segment(studies.image("one"))
    assert "\n" not in caught.value.message and str(studies.root) not in caught.value.message


def test_a_submitted_label_trains(bundle, studies, tmp_path):
    check_image(studies.image("both"))
    with pytest.raises(RequestError, match="expected three dimensions"):  # of clicks, which go by one channel
        read_voxels(studies.image("both"))
    save(tmp_path / "label.nii.gz", case(7)[0])
    submit_label(studies, {bundle.name: bundle}, Submission("both", tmp_path / "label.nii.gz", {}, uploaded=False))
    label = studies.fixed_label("both", "final")[0]
    save(tmp_path / "two.nii.gz", np.stack([case(7)[0]] * 2, axis=3))
    with pytest.raises(RequestError, match="expected three dimensions"):
        submit_label(studies, {bundle.name: bundle}, Submission("both", tmp_path / "two.nii.gz", {}, uploaded=False))
    item = {"image": str(studies.image("both")), "label": str(label)}
    folder = tmp_path / "retraining"
    folder.mkdir()
    write_dataset(bundle, {"both": item}, 0.2, folder, tmp_path / "digests.json")
    check_datalist(load_datalist(folder, "training"), 2, channel_names=NAMES)


def test_who_does_not_learn_from_what(bundle, studies, tmp_path):
    """A network learns in images of its channels; `interactive` from no label with voxels that nobody judged, also from
    those that were put there by hand: to it they were a structure."""
    prompted = read_bundle(prompt_bundle(tmp_path / "prompts"), prompts=True)
    served = replace(bundle, labels={"organ": 1, "ignore": 2})
    whole = case(7)[0]
    half = np.where(np.arange(SHAPE[2]) < 5, whole, 2).astype(np.uint8)

    def found(by, label, *images):
        for image in images:
            save(tmp_path / "label.nii.gz", label)
            submit_label(
                studies, {bundle.name: served}, Submission(image, tmp_path / "label.nii.gz", {}, uploaded=False)
            )
        items, left_out = find_labelled(by, [served], studies)
        return list(items), left_out

    assert found(served, half, "both", "one") == (["both"], {"one": "it has 1 channel(s), expected 2"})
    unjudged = "its label has voxels that nobody has judged"
    assert found(prompted, half) == ([], {"both": unjudged, "one": unjudged})
    assert found(prompted, whole, "both", "one") == (["one"], {"both": "it has 2 channel(s), expected 1"})
    save(studies.root / "third.nii.gz", case(8)[1][..., 0])
    save(studies.root / "labels/final/third.nii.gz", half, AFFINE)
    assert found(prompted, whole)[1]["third"] == unjudged
