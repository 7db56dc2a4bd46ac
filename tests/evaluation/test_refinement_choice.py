"""Which refinement is chosen, on which cases, and where it is written."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from bundle_helpers import EVALUATE, INFERENCE, ROOT, label_names, make_dataset, run, small_bundle
from scipy import ndimage

from rep3d import installed
from rep3d.data.leakage import image_digests
from rep3d.data.lists import load_datalist
from rep3d.datasets.rendering import render_file
from rep3d.evaluation import refinement_choice
from rep3d.evaluation.kept_refinement import check_is_ours, write_refinement
from rep3d.evaluation.refinement_choice import Case, best_refinement, choose_refinement, chosen_on
from rep3d.evaluation.scores import CaseScores
from rep3d.refinement import RefineLabelsd

NAMES = ["background", "liver", "tumor"]
REGIONS = {"liver": [1], "tumor": [2]}
CHOSEN = {"largest": ["anterior hippocampus"], "smallest_ml": {}, "filled": []}


def truth():
    labels = np.zeros((16, 12, 12), np.uint8)
    labels[1:9, 1:9, 1:9] = 1
    labels[2:4, 2:4, 2:4] = labels[6:8, 6:8, 6:8] = 2  # two tumors, both right
    return labels


def with_island(labels):
    labels[12:15, 9:12, 9:12] = 1


def with_holes(labels):
    labels[4:6, 4:6, 4:6] = 0


def with_specks(labels):
    labels[10:16:2, 1:11:3, 1:11:3] = 2


def cases(*faults, count=3):
    made = []
    for number in range(count):
        prediction = truth()
        for fault in faults:
            fault(prediction)
        made.append(Case(np.roll(prediction, number, 1), np.roll(truth(), number, 1), 0.01))
    return made


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ([], {}),
        ([with_island], {"largest": ["liver"], "smallest_ml": {}, "filled": []}),
        ([with_holes], {"largest": [], "smallest_ml": {}, "filled": ["liver"]}),
        ([with_specks], {"largest": [], "smallest_ml": {"tumor": 0.016}, "filled": []}),
        ([with_island, with_holes], {"largest": ["liver"], "smallest_ml": {}, "filled": ["liver"]}),
    ],
)
def test_what_gains_is_chosen(faults, expected):
    given = cases(*faults)
    before = [case.prediction.copy() for case in given]
    assert best_refinement(given, NAMES, REGIONS) == expected
    assert all(np.array_equal(case.prediction, old) for case, old in zip(given, before, strict=True))


def test_what_costs_another_score_is_not():
    """Of these regions the whole would gain without the island, and the tumor, part of which it is, would lose."""
    given = cases(with_island, count=1)
    (case,) = given
    case.truth[12:15, 9:12, 9:12] = 2
    assert best_refinement(given, NAMES, {"liver": [1]})["largest"] == ["liver"]
    assert best_refinement(given, NAMES, {"liver": [1], "both": [1, 2]}) == {}


def test_voxels_that_nobody_judged_choose_nothing():
    given = cases(with_island)
    for case in given:
        case.truth[case.prediction != np.where(case.truth == 0, 0, case.prediction)] = 3
    assert best_refinement(given, NAMES, REGIONS, ignored_label=3) == {}
    assert best_refinement(given, NAMES, REGIONS) != {}


def test_a_label_that_no_case_shows_is_left():
    assert best_refinement(cases(), [*NAMES, "vessel"], {**REGIONS, "vessel": [3]}) == {}


@pytest.fixture
def own(tmp_path):
    """A bundle as `rep3d new` writes it."""
    folder = tmp_path / "mine"
    content = json.loads((ROOT / "configs/datasets/msd_hippocampus.json").read_text())
    content["readme"]["our_dice"] = "not trained yet"
    folder.mkdir()
    (folder / "mine.json").write_text(json.dumps(content))
    for name, text in render_file(installed.root(), folder / "mine.json").items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def files(folder):
    return {path.relative_to(folder): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_choice_stays_when_the_bundle_is_made_anew(own):
    before = files(own)
    write_refinement(own, CHOSEN)
    written = files(own)
    assert {path.name for path in written if written[path] != before[path]} == {
        *("mine.json", "train.json", "inference.json")
    }
    rendered = render_file(installed.root(), own / "mine.json")
    for name in ("train", "inference"):
        assert rendered[f"configs/{name}.json"] == (own / f"configs/{name}.json").read_text()
    write_refinement(own, CHOSEN)
    assert files(own) == written
    check_is_ours(own)
    write_refinement(own, {})
    assert (
        render_file(installed.root(), own / "mine.json")["configs/train.json"]
        == before[next(path for path in before if path.name == "train.json")]
    )


def test_what_somebody_wrote_stays(own):
    content = json.loads((own / "mine.json").read_text())
    content["common"]["refinement"] = [{"_target_": "FillHolesd", "keys": "pred"}]
    (own / "mine.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"mine.json: refinement is \[.*FillHolesd.*\], expected \[\] to have one"):
        check_is_ours(own)


def test_bundles_of_the_package_stay_as_they_are(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="which comes with the package: `rep3d bundles NAME --bundle_dir DIR` writes"):
        check_is_ours(ROOT / "bundles/kits")
    shutil.copytree(ROOT / "bundles/kits", tmp_path / "kits", ignore=shutil.ignore_patterns("models"))
    check_is_ours(tmp_path / "kits")


def test_cases_that_the_weights_know_choose_nothing(own, tmp_path):
    scores = CaseScores(tmp_path, NAMES, trained_on=["a", "b"])
    with pytest.raises(ValueError, match="trained on 2 of the validation cases, a, b: expected weights that do not"):
        choose_refinement(None, None, scores, own, NAMES, 3, tmp_path / "memory", None, ["image"])


@pytest.mark.parametrize(("count", "are_few"), [(1, True), (4, True), (5, False)])
def test_how_many_cases_chose(count, are_few, caplog):
    caplog.set_level("INFO")
    refinement_choice._tell_count(count)
    assert f"refinement: chosen by {count} validation case(s)" in caplog.text
    assert (f"refinement: {count} case(s) are few to choose by, expected 5 at least" in caplog.text) == are_few


def test_cases_that_chose(tmp_path, caplog, monkeypatch):
    """By their images, whatever they are called; without a choice of ours no image is read."""
    items = []
    for seed, name in enumerate("abc"):
        voxels = np.random.default_rng(seed).normal(size=(8, 8, 8)).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / f"{name}.nii")
        items.append({"image": str(tmp_path / f"{name}.nii")})
    digests = list(image_digests([item["image"] for item in items]).values())
    chosen = RefineLabelsd("pred", NAMES, largest=["liver"], chosen_on=[digests[2], digests[0]])
    assert chosen_on([chosen], items, tmp_path / "digests.json") == ["a", "c"]
    assert "the refinement was chosen on 2 of the 3 case(s): a, c" in caplog.text
    assert chosen_on([chosen], items[1:2]) == []
    monkeypatch.setattr("rep3d.data.leakage.read_channels", lambda path: 1 / 0)
    assert chosen_on([RefineLabelsd("pred", NAMES), ndimage.label], items) == []


@pytest.mark.slow
def test_it_is_chosen_on_validation_cases_and_used(tmp_path, monkeypatch, caplog):
    bundle = small_bundle(tmp_path, "msd_hippocampus")
    dataset = make_dataset(tmp_path / "data", bundle)
    seen = []
    monkeypatch.setattr(refinement_choice, "best_refinement", lambda *told: seen.append(told) or CHOSEN)
    told = {"checkpoint": str(bundle / "models/model.pt")}
    for _ in range(2):
        run(bundle, [*EVALUATE, "choose_refinement.json"], dataset, tmp_path / "out", "evaluating", **told)
    items = load_datalist(dataset, "validation")
    for chosen, *_ in seen:
        truths = [nib.load(item["label"]).get_fdata() for item in items]
        assert [np.count_nonzero(case.truth) for case in chosen] == [np.count_nonzero(labels) for labels in truths]
    assert all(np.array_equal(*(case.prediction for case in pair)) for pair in zip(seen[0][0], seen[1][0], strict=True))
    assert not list((tmp_path / "out/eval").glob("scores.csv"))
    assert f"chosen by {len(items)} validation case(s)" in caplog.text and "are few to choose by" in caplog.text
    for name, cases in {"seen": {"validate#dataset#data": items}, "new": {}}.items():
        run(bundle, EVALUATE, dataset, tmp_path / name, "evaluating", **told, **cases)
        told_of = f"**The refinement was chosen on {len(items)} of these cases**"
        assert (told_of in (tmp_path / name / "eval/summary.md").read_text()) == (name == "seen")
    run(bundle, INFERENCE, dataset, tmp_path / "out", **told)
    (refined,) = json.loads((bundle / "configs/inference.json").read_text())["refinement"]
    assert refined == {
        **{"_target_": "rep3d.refinement.RefineLabelsd", "keys": "pred", "label_names": "@label_names"},
        **CHOSEN,
        "chosen_on": sorted(image_digests([item["image"] for item in items]).values()),
    }
    label = label_names(bundle).index("anterior hippocampus")
    maps = [np.asarray(nib.load(path).dataobj) for path in (tmp_path / "out/eval").glob("*_seg.nii.gz")]
    assert maps and all(ndimage.label(labels == label, np.ones((3, 3, 3)))[1] <= 1 for labels in maps)
