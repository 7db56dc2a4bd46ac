"""docs/your_own_dataset.md: one file, one command, and a bundle that trains."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from bundle_helpers import EVALUATE, INFERENCE, ROOT, TRAIN, label_names, make_dataset, run

from rep3d.evaluation.scores import read_scores

PAGE = (ROOT / "docs/your_own_dataset.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_new_label_set(tmp_path):
    root = tmp_path / "repository"
    for folder in ("configs", "scripts"):
        shutil.copytree(ROOT / folder, root / folder)
    shutil.copy(ROOT / "LICENSE", root)
    (block,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    (root / "configs/datasets/knee.json").write_text(block, encoding="utf-8")
    subprocess.run([sys.executable, str(root / "scripts/render_bundles.py")], check=True, capture_output=True)
    bundle = root / "bundles/knee"
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
