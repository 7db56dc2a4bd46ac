"""Which models take prompts, by the bundles that have weights."""

import json
import logging

import pytest
from app_helpers import small_bundle
from prompt_helpers import prompt_bundle, start_app


def infer(client, model):
    params = {"label": "cyst", "foreground": [[1, 1, 1]]}
    return client.post(f"/infer/{model}?image=scan", files={"params": (None, json.dumps(params))})


@pytest.fixture
def studies(tmp_path):
    (tmp_path / "studies").mkdir()
    return tmp_path / "studies"


def test_without_weights_nothing_takes_prompts(tmp_path, studies, caplog):
    """Clients show no tools for it then, and who asks all the same is told why."""
    caplog.set_level(logging.INFO)
    small_bundle(tmp_path / "bundles", "kits")
    prompt_bundle(tmp_path / "bundles", weights=False)
    client = start_app(tmp_path, studies, tmp_path / "bundles")
    assert "interactive has no weights" in caplog.text and list(client.get("/info/").json()["models"]) == ["kits"]
    for model in ("interactive", "scribbles", "kits_edit"):
        answer = infer(client, model)
        told = "model 'interactive' has no weights yet: train it first"
        assert answer.status_code == 404 and answer.json()["detail"] == told


def test_a_bundle_without_weights_is_not_edited(tmp_path, studies, caplog):
    caplog.set_level(logging.INFO)
    small_bundle(tmp_path / "bundles", "kits", weights=False)
    prompt_bundle(tmp_path / "bundles")
    client = start_app(tmp_path, studies, tmp_path / "bundles", models="kits,interactive")
    assert "models that take prompts: interactive, scribbles\n" in caplog.text
    assert list(client.get("/info/").json()["models"]) == ["interactive", "scribbles"]


def test_it_may_be_served_alone(tmp_path, studies):
    prompt_bundle(tmp_path / "bundles")
    client = start_app(tmp_path, studies, tmp_path / "bundles")
    assert list(client.get("/info/").json()["models"]) == ["interactive", "scribbles"]
    answer = client.post("/train/", json={})
    assert answer.status_code == 400 and "no submitted label" in answer.json()["detail"]
    assert (
        client.post("/batch/infer/interactive", json={})
        .json()["detail"]
        .startswith("model 'interactive' takes prompts")
    )
    assert client.get("/model/interactive/versions").json() == []


@pytest.mark.parametrize("name", ["scribbles", "kits_edit"])
def test_a_bundle_of_the_same_name(tmp_path, studies, name):
    small_bundle(tmp_path / "bundles", "kits").rename(tmp_path / "bundles" / name)
    small_bundle(tmp_path / "bundles", "kits")
    prompt_bundle(tmp_path / "bundles")
    with pytest.raises(ValueError, match=f"the bundle '{name}' has the name of a model that takes prompts"):
        start_app(tmp_path, studies, tmp_path / "bundles")
