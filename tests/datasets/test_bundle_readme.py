"""What a bundle's README says of its configuration follows from it."""

import json
import shutil

import pytest
from bundle_helpers import ROOT, read

from rep3d.datasets.bundle_readme import computed_fields, preprocessing_in_words
from rep3d.datasets.rendering import render


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copy(ROOT / "LICENSE", tmp_path)
    return tmp_path


def rendered(copy, fragment, edit, name="kits"):
    path = copy / "configs" / f"{fragment}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return render(copy, name)["docs/README.md"]


@pytest.mark.parametrize(
    ("fragment", "edit", "said"),
    [
        ("datasets/kits", lambda c: c["common"].update(spacing=[0.8, 0.8, 3.0]), "0.8 x 0.8 x 3 mm"),
        ("datasets/kits", lambda c: c["common"].update(intensity_window=[-50, 200.5]), "window -50 to 200.5 HU to 0-1"),
        ("datasets/kits", lambda c: c["metadata"].update(modality="MR"), "window -125 to 275 to 0-1"),
        ("datasets/kits", lambda c: c["common"].update(patch_size=[64, 80, 96]), "2 crops of 64x80x96."),
        (
            "datasets/kits",
            lambda c: c["data"]["split"].update(training=210),
            "5 folds of 210 training and 30 validation",
        ),
        ("datasets/kits", lambda c: c["data"]["split"].update(test=60), "all share 60 test cases. As in the paper.\n"),
        ("datasets/kits", lambda c: c["data"].update(folds=1), "240 training, 30 validation and 30 test cases. As"),
        ("datasets/kits", lambda c: c["data"].update(folds=3), "`--fold 1` (to 2)"),
        ("datasets/kits", lambda c: c["readme"].pop("split_note"), "all share 30 test cases.\n"),
        ("networks/rep3d", lambda c: c["network_def"].update(kernel_size=13), "13x13x13 depthwise convolutions that"),
        ("networks/rep3d", lambda c: c["network_def"].update(modulation="none"), "21x21x21 depthwise convolutions\n"),
        ("networks/rep3d", lambda c: c["network_def"].update(_target_="monai.networks.nets.DynUNet"), "with DynUNet. "),
    ],
)
def test_facts_of_a_config_reach_the_readme(fragment, edit, said, copy):
    assert said not in render(copy, "kits")["docs/README.md"]
    assert said in rendered(copy, fragment, edit)


def test_the_number_of_crops(copy):
    def edit(recipe):
        (crops,) = [item for item in recipe["train"]["train"]["random_transforms"] if "num_samples" in item]
        crops["num_samples"] = 4

    assert "training takes 4 crops of 96x96x96" in rendered(copy, "recipes/paper", edit)


def test_transforms_without_words_of_their_own_are_named():
    train = read(ROOT / "bundles/kits", "train")
    before = json.dumps(train)
    assert preprocessing_in_words(train, " HU").endswith("to 0-1, foreground crop")
    assert json.dumps(train) == before
    transforms = train["preprocessing"]["transforms"]
    transforms[-1] = {"_target_": "monai.transforms.HistogramNormalized", "keys": "image"}
    assert preprocessing_in_words(train, " HU").endswith("to 0-1, HistogramNormalize")


def test_a_data_set_without_folds():
    train = read(ROOT / "bundles/msd_hippocampus", "train")
    data = {"layout": "decathlon", "split": {"training": 7, "validation": 2, "test": 1}, "folds": 1}
    fields = computed_fields("kits", train, {"data": data, "readme": {}, "metadata": {"modality": "MR"}})
    assert fields["split"] == "7 training, 2 validation and 1 test cases." and fields["folds"] == ""
    assert fields["preprocessing"] == (
        "RAS orientation, 1 x 1 x 1 mm, intensity z-scored per case; training takes a crop of 32x48x32."
    )


def test_a_variant_has_a_readme_of_its_own(copy):
    text = rendered(copy, "datasets/interactive", lambda c: c["train"].update(patch_size=[80] * 3), "interactive")
    assert "64x64x64 voxels (80x80x80 in training)" in text
    assert "depthwise convolutions" in text and "--foreground" in text
    assert "refine.json" not in text
