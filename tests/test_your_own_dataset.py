"""docs/your_own_dataset.md: what a bundle's file may say, and a bundle from it that trains."""

import json
import re

import pytest
from bundle_helpers import EVALUATE, INFERENCE, ROOT, TRAIN, label_names, make_dataset, run

from rep3d import installed
from rep3d.datasets.rendering import render_file
from rep3d.evaluation.scores import read_scores

PAGE = (ROOT / "docs/your_own_dataset.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_new_label_set(tmp_path):
    (block,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    bundle = tmp_path / "knee"
    bundle.mkdir()
    (bundle / "knee.json").write_text(block, encoding="utf-8")
    for name, text in render_file(installed.root(), bundle / "knee.json").items():
        (bundle / name).parent.mkdir(exist_ok=True)
        (bundle / name).write_text(text, encoding="utf-8")
    assert label_names(bundle) == json.loads(block)["common"]["label_names"]
    dataset = make_dataset(tmp_path / "data", bundle)
    for files in (TRAIN, EVALUATE, INFERENCE):
        run(bundle, files, dataset, tmp_path / "out")
    (labels,) = {tuple(labels) for labels in read_scores(tmp_path / "out/eval").values()}
    assert labels == ("femur", "tibia", "cartilage")
    assert list((tmp_path / "out/eval").glob("*_seg.nii.gz"))


def test_files_that_the_page_names():
    names = re.findall(r"(?:configs/(?:recipes|networks|ablations)|scripts)/\w+\.(?:json|py)", PAGE)
    assert len(names) >= 4 and all((ROOT / name).is_file() for name in names)
