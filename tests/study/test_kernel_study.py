import csv

import pytest
from bundle_helpers import make_dataset, small_bundle

from rep3d.study.kernels import FORMS, show_learning, show_trained


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return small_bundle(tmp_path_factory.mktemp("bundle"), "msd_hippocampus")


@pytest.fixture(scope="module")
def dataset(bundle, tmp_path_factory):
    return str(make_dataset(tmp_path_factory.mktemp("data"), bundle, count=5))


@pytest.mark.slow
def test_a_trained_network(bundle, dataset, tmp_path):
    show_trained(bundle, dataset, tmp_path / "a", str(bundle / "models/model.pt"), 6)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        f"{name}.{end}" for name in ("receptive_fields", "masks") for end in ("png", "csv")
    }
    show_trained(bundle, dataset, tmp_path / "b", str(bundle / "models/model.pt"), 6)
    texts = [(tmp_path / folder / "receptive_fields.csv").read_text() for folder in "ab"]
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_learning_rates_by_element(bundle, dataset, tmp_path):
    """With SGD, a small kernel beside the large one and scaled gradients both double the steps of the centre."""
    show_learning(bundle, dataset, tmp_path, 2, overrides={"patch_size": [32, 32, 32]})
    rows = list(csv.DictReader((tmp_path / "updates.csv").open()))
    moved = {}
    for row in rows:
        moved.setdefault((row["optimizer"], row["form"]), []).append(float(row["update"]))
    assert set(moved) == {(optimizer, form) for optimizer in ("SGD", "AdamW") for form in FORMS}
    plain, scaled = moved["SGD", "none"], moved["SGD", "rep_optimizer"]
    assert scaled[0] / plain[0] == pytest.approx(2, rel=0.1) and scaled[-1] / plain[-1] == pytest.approx(1, rel=0.1)
    assert moved["SGD", "csla"][0] / moved["SGD", "csla"][-1] > 1.5 * plain[0] / plain[-1]
    plain, scaled = moved["AdamW", "none"], moved["AdamW", "rep_optimizer"]
    assert scaled[0] / plain[0] == pytest.approx(1, rel=0.1)  # Adam takes a constant factor out again
    assert moved["AdamW", "csla"][0] / moved["AdamW", "csla"][-1] > 1.3


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="forms is .'mask'., expected some of none, csla"):
        show_learning(tmp_path, "", tmp_path, 2, forms=["mask"])
    with pytest.raises(ValueError, match="steps is 0"):
        show_learning(tmp_path, "", tmp_path, 0)
