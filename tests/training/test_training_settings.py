import json

import pytest
from bundle_helpers import EVALUATE, INFERENCE, ROOT, read
from monai.transforms import Spacingd

from rep3d.study.run import BundleRun, parse
from rep3d.training import settings
from rep3d.training.settings import training_settings


@pytest.fixture
def bundle(tmp_path):
    """A bundle whose training was changed in its file, and inference was not."""
    shared = {"spacing": [1, 1, 1], "patch_size": [32, 32, 32], "channel_names": ["image"], "interpolation": "linear"}
    own = {"spacing": [2, 2, 2], "interpolation": ["linear", "nearest"], "ckpt_dir": "models", "epochs": 3}
    (tmp_path / "configs").mkdir()
    for name, config in (("inference", shared), ("train", {**shared, **own})):
        (tmp_path / f"configs/{name}.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path


def test_what_weights_rest_on_is_kept_whatever_inference_has(bundle, monkeypatch):
    config = json.loads((bundle / "configs/train.json").read_text(encoding="utf-8"))
    monkeypatch.setattr(settings, "running_config", lambda: config)
    expected = {"spacing": [2, 2, 2], "patch_size": [32, 32, 32], "channel_names": ["image"]}
    assert training_settings(bundle) == expected


BUNDLE = ROOT / "bundles/msd_hippocampus"


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ({}, "bilinear"),
        ({"image_interpolation": "nearest"}, "nearest"),
        ({"interpolation": ["nearest", "nearest"]}, "nearest"),
        ({"interpolation": "nearest"}, "nearest"),
        ({"interpolation": [0, "nearest"]}, 0),
    ],
)
def test_the_interpolation_of_the_image_is_kept(told, kept, monkeypatch):
    monkeypatch.setattr(settings, "running_config", lambda: {**read(BUNDLE, "train"), **told})
    assert training_settings(BUNDLE)["image_interpolation"] == kept


@pytest.mark.parametrize("files", [EVALUATE, INFERENCE], ids=["evaluate", "inference"])
@pytest.mark.parametrize(("kept", "mode"), [({}, "bilinear"), ({"image_interpolation": "nearest"}, "nearest")])
def test_evaluation_and_inference_resample_as_the_training_did(files, kept, mode, tmp_path):
    """Bilinearly with weights of before, of which nothing tells it."""
    overlay = tmp_path / "as_trained.json"
    overlay.write_text(json.dumps({"spacing": [1, 1, 1], **kept}), encoding="utf-8")
    parser = parse(BundleRun(BUNDLE, "evaluating", [*files, overlay]))
    (spacing,) = [one for one in parser.get_parsed_content("preprocessing").transforms if isinstance(one, Spacingd)]
    assert spacing.mode == (mode,)


def test_nothing_is_kept_outside_of_a_workflow(bundle):
    assert training_settings(bundle) == {}
