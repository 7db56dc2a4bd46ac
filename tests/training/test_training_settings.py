import json

import pytest

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


def test_nothing_is_kept_outside_of_a_workflow(bundle):
    assert training_settings(bundle) == {}
