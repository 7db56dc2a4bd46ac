"""The whole evaluation of clicks, with a network that thresholds, on scans of two blobs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import evaluate_interactive as script
import nibabel as nib
import numpy as np
import pytest
import torch
import train_deepedit
from torch import nn

from rep3d.data.leakage import TrainingCases, image_digests
from rep3d.data.lists import load_datalist
from rep3d.evaluation import scribble_planes
from rep3d.interactive import channels
from rep3d.study import interactive
from rep3d.study.run import BundleRun

# Of the channels image, previous mask, positive, negative, taken: what looks like a positive prompt and lies near it.
WEIGHTS, BIAS = [0.0, 10.0, 20.0, -20.0, -20.0], -4.0


@pytest.fixture(autouse=True)
def reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts reach through a whole blob, so that a network can segment it that sees each voxel by itself."""
    monkeypatch.setattr(channels, "STEP", 0.02)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A data set of four cases, and a network of one convolution."""
    folder = tmp_path_factory.mktemp("files")
    data = folder / "data"
    for name in ("imagesTr", "labelsTr"):
        (data / name).mkdir(parents=True)
    entries = []
    for i in range(4):
        label = np.zeros((20, 18, 16), dtype=np.uint8)
        label[3:9, 4:12, 4:12] = 1
        label[11:16, 5 : 9 + i, 4:10] = 2
        image = (300 * (label > 0) + np.random.default_rng(i).normal(0, 10, label.shape)).astype(np.float32)
        for voxels, part in ((image, "imagesTr"), (label, "labelsTr")):
            nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2, 2, 1])), data / part / f"blobs_{i}.nii.gz")
        entries.append({"image": f"./imagesTr/blobs_{i}.nii.gz", "label": f"./labelsTr/blobs_{i}.nii.gz"})
    names = {"0": "background", "1": "first", "2": "second"}
    (data / "dataset.json").write_text(json.dumps({"labels": names, "training": entries}), encoding="utf-8")

    network = nn.Conv3d(5, 1, 1)
    network.load_state_dict({"weight": torch.tensor(WEIGHTS).view(1, 5, 1, 1, 1), "bias": torch.tensor([BIAS])})
    torch.save(network.state_dict(), folder / "model.pt")
    definition = {"_target_": "torch.nn.Conv3d", "in_channels": 5, "out_channels": 1, "kernel_size": 1}
    config = {"network_def": definition, "patch_size": [32, 32, 32]}
    (folder / "network.json").write_text(json.dumps(config), encoding="utf-8")
    return {
        "dataset_dir": str(data),
        "weights": str(folder / "model.pt"),
        "network": str(folder / "network.json"),
    }


def rows(folder: Path) -> dict[str, list[str]]:
    lines = [line for line in (folder / "summary.md").read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    return {
        cells[0].strip(): [c.strip() for c in cells[1:]] for cells in (line.strip("|").split("|") for line in lines)
    }


@pytest.mark.slow
def test_methods_side_by_side(files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("numpymaxflow")
    pytest.importorskip("SimpleITK")
    script.main(**files, output_dir=str(tmp_path), part="all", labels="together", strips=1)
    table = rows(tmp_path)
    assert list(table) == ["method", "---", "ours", "graph_cut", "graph_cut_near", "region_growing"]
    assert float(table["ours"][2]) > 0.9  # two clicks, two blobs
    assert capsys.readouterr().out.strip() in (tmp_path / "summary.md").read_text(encoding="utf-8")
    for name in ("clicks.csv", "summary.json", "clicks.png", "strips/ours_blobs_0_first + second.png"):
        assert (tmp_path / name).stat().st_size > 0


def test_each_label_by_itself(files: dict[str, str], tmp_path: Path) -> None:
    script.main(**files, output_dir=str(tmp_path), part="all", methods="ours", cases=2)
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "first, 2 case(s)" in text and "second, 2 case(s)" in text


def find_first_blob(run: BundleRun) -> None:
    """A bundle that finds the first label only."""
    target = Path(run.overrides["output_dir"])
    target.mkdir(parents=True, exist_ok=True)
    for item in run.overrides["dataset#data"]:
        label = nib.load(item["image"].replace("imagesTr", "labelsTr"))
        voxels = np.asarray(label.dataobj)
        nib.save(nib.Nifti1Image(voxels * (voxels == 1), label.affine), target / f"{item['case']}_seg.nii.gz")


def small_bundle(folder: Path, files: dict[str, str]) -> str:
    """A bundle of the network, which was trained in its folder."""
    for path, file in (("configs/inference.json", files["network"]), ("models/trained/model.pt", files["weights"])):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_bytes(Path(file).read_bytes())
    return str(folder)


def test_automatic_segmentations_are_of_their_images_and_settings(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(interactive, "run_process", lambda run: asked.append(run.overrides["dataset#data"]))
    images = [tmp_path / f"{name}.nii.gz" for name in "ab"]
    items = [{"image": str(path)} for path in images]
    weights = interactive.Weights(tmp_path, tmp_path, automatic=Path(small_bundle(tmp_path, files)))

    def ask() -> list[str]:
        paths, _ = interactive._automatic(items, weights, tmp_path / "automatic", tmp_path)
        for path in paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return [item["image"] for item in asked.pop()] if asked else []

    for path in images:
        path.write_bytes(b"as it was")
    assert ask() == [str(path) for path in images]
    assert ask() == []
    images[1].write_bytes(b"as it is")
    assert ask() == [str(images[1])]
    (tmp_path / "models/trained/as_trained.json").write_text('{"patch_size": [16, 16, 16]}', encoding="utf-8")
    assert ask() == [str(path) for path in images]
    (tmp_path / "configs/inference.json").write_text("{}", encoding="utf-8")
    assert ask() == [str(path) for path in images]


def test_automatic_segmentations_have_the_ids_of_the_data_set(files: dict[str, str], tmp_path: Path) -> None:
    options = {**files, "output_dir": str(tmp_path / "out"), "part": "all", "methods": "automatic"}
    bundle = small_bundle(tmp_path / "bundle", files)
    (tmp_path / "bundle/models/trained/as_trained.json").write_text(
        '{"label_names": ["background", "second", "first"]}'
    )
    with pytest.raises(ValueError, match="\"labels\" has 'first' as 1, expected .*1 second, 2 first, as the bundle"):
        script.main(**options, automatic=bundle)


def test_it_says_what_weights_were_trained_on(files: dict[str, str], tmp_path: Path) -> None:
    digests = image_digests(str(path) for path in Path(files["dataset_dir"]).glob("imagesTr/*"))
    network = nn.Conv3d(5, 1, 1)
    network.load_state_dict(torch.load(files["weights"], weights_only=True))
    seen = next(digest for path, digest in digests.items() if "blobs_2" in path)
    torch.save(TrainingCases({seen: "under any name"}, {}).mark(network.state_dict()), tmp_path / "seen.pt")
    options = {**files, "weights": str(tmp_path / "seen.pt"), "part": "all", "methods": "ours", "labels": "together"}
    script.main(**options, output_dir=str(tmp_path / "out"))
    text = (tmp_path / "out/summary.md").read_text(encoding="utf-8")
    assert "seen.pt was trained on 1 of these cases**: blobs_2\n" in text


def test_a_bundle_that_was_trained_is_evaluated_as_trained(files: dict[str, str], tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "bundle", files)
    config = json.loads(Path(files["network"]).read_text(encoding="utf-8"))
    (tmp_path / "bundle/models/trained/as_trained.json").write_text(json.dumps(config), encoding="utf-8")
    config["network_def"]["kernel_size"] = 3
    (tmp_path / "bundle/configs/inference.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "bundle/models/model.pt").write_bytes(b"what it came with")
    options = {"dataset_dir": files["dataset_dir"], "part": "all", "cases": 1, "methods": "ours", "bundle": bundle}
    script.main(**options, output_dir=str(tmp_path / "out"), labels="together")
    assert float(rows(tmp_path / "out")["ours"][2]) > 0.9


def test_an_automatic_segmentation_is_scored_and_started_from(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def find(run: BundleRun) -> None:
        asked.append([item["case"] for item in run.overrides["dataset#data"]])
        find_first_blob(run)

    monkeypatch.setattr(interactive, "run_process", find)
    options = {
        **files,
        "output_dir": str(tmp_path),
        "part": "all",
        "labels": "together",
        "methods": ("automatic", "ours_from_automatic"),
        "automatic": small_bundle(tmp_path, files),
    }
    script.main(**options, cases=2)
    script.main(**options)
    assert len(asked) == 2 and len(asked[0]) == 2 and not set(asked[0]) & set(asked[1])
    table = rows(tmp_path)
    assert table["automatic"][0] == table["ours_from_automatic"][0] and 0.5 < float(table["automatic"][0]) < 0.9
    assert table["automatic"][1] == "-" and float(table["ours_from_automatic"][1]) > 0.95  # one click, one blob


def steps(checkpoint: dict) -> int:
    """Those of the optimizer."""
    return int(checkpoint["optimizer"]["state"][0]["step"])


@pytest.mark.slow
def test_deepedit_is_trained_in_parts_and_evaluated_beside_the_others(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("skimage")
    weights = tmp_path / "deepedit.pt"
    training = {"dataset_dir": files["dataset_dir"], "output": str(weights), "size": (32, 16, 16)}
    train_deepedit.main(**training, minutes=1e-4)
    first = torch.load(weights, weights_only=True)
    assert first["epochs"] == 1 and first["ids"] == [1, 2] and first["loss"] > 0
    with pytest.raises(ValueError, match="deepedit.pt is there already: go on with --resume true"):
        train_deepedit.main(**training, minutes=1)
    with pytest.raises(ValueError, match=r"was trained with ids \[1, 2\], not \[1\]"):
        train_deepedit.main(**training, minutes=1, labels=1, resume=True)
    other = Path(shutil.copytree(files["dataset_dir"], tmp_path / "other"))
    image = load_datalist(other, "training")[0]["image"]
    scan = nib.load(image)
    nib.save(nib.Nifti1Image(scan.get_fdata() + 1, scan.affine), image)
    with pytest.raises(ValueError, match="deepedit.pt is of other cases: it was not trained on 1 of the"):
        train_deepedit.main(**{**training, "dataset_dir": str(other)}, minutes=1, resume=True)
    train_deepedit.main(**training, minutes=1e-4, resume=True)  # which is over
    assert torch.load(weights, weights_only=True)["seconds"] == first["seconds"]
    train_deepedit.main(**training, minutes=first["seconds"] / 60 + 1e-4, resume=True)
    second = torch.load(weights, weights_only=True)
    assert second["epochs"] == 2 and second["seconds"] > first["seconds"]
    assert steps(second) == 2 * steps(first) > 0
    assert any(not torch.equal(value, second["network"][name]) for name, value in first["network"].items())

    options = {
        **files,
        "output_dir": str(tmp_path / "out"),
        "methods": "automatic,ours_from_automatic,deepedit",
        "automatic": small_bundle(tmp_path / "bundle", files),
        "automatic_weights": files["weights"],
        "deepedit": str(weights),
        "cases": 1,
    }
    monkeypatch.setattr(interactive, "run_process", find_first_blob)
    script.main(**options, labels="together")
    table = rows(tmp_path / "out")
    assert list(table)[2:] == ["automatic", "ours_from_automatic", "deepedit"]
    assert set(table["deepedit"][1:5]) != {"-"} and float(table["ours_from_automatic"][1]) > 0.95
    with pytest.raises(ValueError, match=r"DeepEdit was trained for the ids \(1, 2\), not for first"):
        script.main(**{**options, "output_dir": str(tmp_path / "other")}, labels=1)


def test_the_challenges_cases_end_in_its_scores(files: dict[str, str], tmp_path: Path) -> None:
    truth = np.zeros((20, 18, 16), dtype=np.uint8)
    truth[3:9, 4:12, 4:12] = 1
    (tmp_path / "cases").mkdir()
    for name in "ab":
        np.savez(tmp_path / f"cases/{name}.npz", imgs=200 * truth, gts=truth, spacing=np.array([2.0, 1, 1]))
    options = {**files, "dataset_dir": str(tmp_path / "cases"), "output_dir": str(tmp_path), "protocol": "cvpr25"}
    script.main(**options, methods="ours")
    means = json.loads((tmp_path / "cvpr25.json").read_text(encoding="utf-8"))
    assert 3.5 < means["ours"]["dsc_auc"] <= 4 and means["ours"]["too_late"] == 0
    assert "2 case(s)" in (tmp_path / "cvpr25.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"methods": "ours,magic"}, "methods names 'magic', expected some of ours"),
        ({"user": "lazy"}, "user is 'lazy', expected one of deepest, mixed"),
        ({"protocol": "cvpr26"}, "protocol is 'cvpr26'"),
        ({"cases": -1}, "cases is -1"),
        ({"dataset_dir": "nowhere"}, "'nowhere' does not exist"),
        ({"weights": "nowhere.pt"}, "nowhere.pt: no such file"),
        ({"network": "nowhere.json"}, "nowhere.json: no such file"),
        ({"labels": 7}, "labels is (7,), expected 'together' or some of [1, 2]"),
        ({"methods": "automatic"}, "need --automatic BUNDLE"),
        ({"methods": "deepedit"}, "needs --deepedit FILE"),
        ({"methods": "deepedit", "deepedit": "nowhere.pt"}, "nowhere.pt: no such file"),
        ({"protocol": "cvpr25"}, "holds no .npz cases"),
        ({"labels": "each"}, "labels is 'each'"),
        ({"plane": "oblique"}, "plane is 'oblique', expected one of sagittal, coronal, axial"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(files: dict[str, str], tmp_path: Path, changed: dict, told: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        script.main(**{**files, "output_dir": str(tmp_path), **changed})
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_records_of_other_parameters_are_not_gone_on_with(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("SimpleITK")
    options = {"output_dir": str(tmp_path), "part": "all", "labels": "together", "methods": "region_growing"}
    script.main(**files, **options, cases=1)
    script.main(**files, **options, cases=1)
    monkeypatch.setitem(
        interactive.SETTINGS, "region_growing", {**interactive.SETTINGS["region_growing"], "limits": [9]}
    )
    with pytest.raises(ValueError, match=r"holds results with limits \[3.0, .*, not \[9\]: expected the same"):
        script.main(**files, **options, cases=1)


def test_one_scribble_in_three_planes(files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    script.main(**files, output_dir=str(tmp_path), part="all", labels=1, cases=1, methods="ours", protocol="planes")
    printed = capsys.readouterr().out.strip()
    assert printed == (tmp_path / "planes.md").read_text(encoding="utf-8").strip()
    lines = [line.strip("| ").split(" | ") for line in printed.splitlines() if "blobs_" in line]
    assert [line[3] for line in lines] == ["1 x 1 x 1", "0.7 x 0.7 x 5"]
    for line in lines:
        values = [float(cell) for cell in line[4:]]
        assert values[3] == pytest.approx(max(values[:3]) - min(values[:3]), abs=2e-3) and min(values[:3]) > 0


def test_what_holds_no_scribble_is_left_out(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stroke of 14 mm, for which the second blob of the first case is too narrow."""
    options = {**files, "output_dir": str(tmp_path), "part": "all", "methods": "ours", "protocol": "planes"}
    monkeypatch.setattr(scribble_planes, "LENGTHS", (14,))
    script.main(**options)
    printed = capsys.readouterr().out
    assert "blobs_0, second, 1 x 1 x 1 mm: the structure is too small for a scribble of 14 mm" in printed
    assert "| ours | blobs_0 | first | 1 x 1 x 1 |" in printed and "| ours | blobs_0 | second | 1 x" not in printed
    monkeypatch.setattr(scribble_planes, "LENGTHS", (40,))
    with pytest.raises(ValueError, match="blobs_3, second, 1 x 1 x 1 mm: the structure is too small for a scribble"):
        script.main(**options)
