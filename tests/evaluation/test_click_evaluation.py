"""What clicks achieve is counted right, goes on after an interruption, and tells itself from other evaluations."""

from __future__ import annotations

import csv
import json
from importlib.metadata import version
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from rep3d.evaluation.click_cases import list_cases, load_case, named_labels, read_ras
from rep3d.evaluation.click_summary import write_summary
from rep3d.evaluation.clicks import MOST, Method, MixedUser, Series, deepest_user, evaluate, follow
from rep3d.interactive.prompts import Prompt

SPACING = (1.0, 1.0, 2.0)


def halves() -> torch.Tensor:
    truth = torch.zeros(12, 10, 8, dtype=torch.bool)
    truth[1:5, 2:8, 2:6] = truth[7:11, 2:8, 2:6] = True
    return truth


def paint_block(image, spacing, prompts, previous):
    """Fills the half of the last prompt's sign; the perfect helper of a user."""
    mask = previous.clone()
    half = slice(0, 6) if prompts[-1].positions[0][0] < 6 else slice(6, 12)
    mask[half] = halves()[half]
    return mask


def ignore(image, spacing, prompts, previous):
    return previous.clone()


def test_clicks_are_followed_until_nothing_is_wrong() -> None:
    seen: list[tuple[int, int]] = []
    truth = halves()
    series = follow(
        paint_block,
        torch.zeros(12, 10, 8),
        SPACING,
        truth,
        deepest_user,
        watch=lambda prompts, mask: seen.append((len(prompts), int(mask.sum()))),
    )
    assert series.dice == [0, pytest.approx(2 / 3), 1]
    assert len(series.seconds) == 2
    assert seen == [(0, 0), (1, 96), (2, 192)]
    assert [series.after(clicks) for clicks in (0, 1, 2, 10)] == [0, pytest.approx(2 / 3), 1, 1]
    assert [series.clicks_for(aim) for aim in (0.0, 0.5, 0.9)] == [0, 1, 2]


def test_a_method_that_does_not_follow_fails_after_twenty_clicks() -> None:
    series = follow(ignore, torch.zeros(12, 10, 8), SPACING, halves(), deepest_user)
    assert len(series.seconds) == MOST == 20
    assert series.clicks_for(0.85) == 20 and not series.reaches(0.85)


def test_what_the_last_click_reaches_is_no_failure() -> None:
    late = Series([0.0] * 20 + [0.9], [0.1] * 20)
    assert late.clicks_for(0.85) == 20 and late.reaches(0.85)


def test_a_start_counts_before_the_first_click() -> None:
    truth = halves()
    start = truth.clone()
    start[6:] = False
    series = follow(paint_block, torch.zeros(12, 10, 8), SPACING, truth, deepest_user, start=start)
    assert series.dice == [pytest.approx(2 / 3), 1]
    assert follow(None, torch.zeros(12, 10, 8), SPACING, truth, deepest_user, start=start).dice == [series.dice[0]]


@pytest.mark.parametrize("answer", [torch.zeros(12, 10, 8), torch.zeros(12, 10, 7, dtype=torch.bool)])
def test_an_answer_that_is_no_mask_is_refused(answer: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected a mask of bool and of shape"):
        follow(lambda *_: answer, torch.zeros(12, 10, 8), SPACING, halves(), deepest_user)


def test_an_empty_truth_is_refused() -> None:
    with pytest.raises(ValueError, match="truth is empty"):
        follow(ignore, torch.zeros(4, 4, 4), SPACING, torch.zeros(4, 4, 4, dtype=torch.bool), deepest_user)


def test_the_mixed_user_is_the_same_again() -> None:
    def prompts(seed: int) -> list[Prompt]:
        seen: list[Prompt] = []
        follow(
            ignore,
            torch.zeros(12, 10, 8),
            SPACING,
            halves(),
            MixedUser(seed),
            most=6,
            watch=lambda prompts, mask: seen.extend(prompts[-1:]),
        )
        return seen

    assert prompts(3) == prompts(3) != prompts(4)


def write_dataset(folder: Path, count: int = 3) -> Path:
    """Decathlon layout, LPS, with two labels of which the last case lacks one."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    entries = []
    for i in range(count):
        label = np.zeros((14, 12, 10), dtype=np.uint8)
        label[2:7, 2:8, 2:8] = 1
        if i < count - 1:
            label[8:12, 2:8, 2 : 7 + i] = 2
        image = (100 * label + np.random.default_rng(i).normal(size=label.shape)).astype(np.float32)
        affine = np.diag([-1.5, -1, 2, 1])
        for voxels, part in ((image, "imagesTr"), (label, "labelsTr")):
            nib.save(nib.Nifti1Image(voxels, affine), folder / part / f"case_{i}.nii.gz")
        entries.append({"image": f"./imagesTr/case_{i}.nii.gz", "label": f"./labelsTr/case_{i}.nii.gz"})
    names = {"0": "background", "1": "first", "2": "second"}
    (folder / "dataset.json").write_text(json.dumps({"labels": names, "training": entries}), encoding="utf-8")
    return folder


def test_cases_are_read_with_axes_of_one_direction(tmp_path: Path) -> None:
    items = list_cases(write_dataset(tmp_path), "all")
    assert [Path(item["image"]).name for item in items] == ["case_0.nii.gz", "case_1.nii.gz", "case_2.nii.gz"]
    case = load_case(items[0])
    assert case.spacing == (1.5, 1, 2) and case.name == "case_0"
    original = np.asarray(nib.load(items[0]["label"]).dataobj)
    assert np.array_equal(case.label.numpy(), original[::-1, ::-1])
    assert len(list_cases(tmp_path, "test")) == 1


def test_spacing_follows_its_axis(tmp_path: Path) -> None:
    affine = np.array([[0, 0, 3, 0], [1.0, 0, 0, 0], [0, -2, 0, 0], [0, 0, 0, 1]])  # axes: front, down, right
    voxels = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "scan.nii.gz")
    read, spacing = read_ras(tmp_path / "scan.nii.gz")
    assert spacing == (3, 1, 2)
    assert np.array_equal(read.numpy(), voxels.transpose(2, 0, 1)[:, :, ::-1])


def test_labels_are_taken_one_by_one_or_together(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path)
    assert named_labels(folder) == {"first": [1], "second": [2]}
    assert named_labels(folder, [2]) == {"second": [2]}
    assert named_labels(folder, "together") == {"first + second": [1, 2]}
    for wrong in ([3], "each"):
        with pytest.raises(ValueError, match=r"labels is .*, expected 'together' or some of \[1, 2\]"):
            named_labels(folder, wrong)
    (folder / "dataset.json").write_text('{"training": []}')
    with pytest.raises(ValueError, match='"labels" is None'):
        named_labels(folder)


def tell_labels(folder: Path, labels: dict[str, object]) -> Path:
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "training": []}))
    return folder


def test_regions_are_labels_of_several_ids(tmp_path: Path) -> None:
    folder = tell_labels(tmp_path, {"background": 0, "whole": [1, 2, 3], "x": 3, "core": [2, 3]})
    assert named_labels(folder) == {"whole": [1, 2, 3], "core": [2, 3], "x": [3]}
    assert named_labels(folder, [3]) == {"x": [3]}
    assert named_labels(folder, "together") == {"whole + x + core": [1, 2, 3]}
    with pytest.raises(ValueError, match=r"labels is \[1\], expected 'together' or some of \[3\]"):
        named_labels(folder, [1])


@pytest.mark.parametrize("place", ["one", 1.5, [], [1, "x"], {}, None])
def test_a_label_that_is_no_ids_is_refused(tmp_path: Path, place: object) -> None:
    with pytest.raises(ValueError, match="dataset.json: \"labels\" has 'x' as .*, expected an id, or a list"):
        named_labels(tell_labels(tmp_path, {"background": 0, "x": place}))


def test_a_name_of_two_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'x' for 2 ids"):
        named_labels(tell_labels(tmp_path, {"0": "background", "1": "x", "2": "x"}))


@pytest.mark.parametrize(
    "labels", [{"background": 0, "x": 1, "ignore": 2}, {"0": "background", "1": "x", "2": " Ignore"}]
)
def test_voxels_that_nobody_judged_are_no_label(tmp_path: Path, labels: dict[str, object]) -> None:
    folder = tell_labels(tmp_path, labels)
    for chosen in ((), "together"):
        with pytest.raises(
            ValueError, match=r"dataset.json: \"labels\" has ' ?[iI]gnore', voxels that nobody has judged"
        ):
            named_labels(folder, chosen)
    assert named_labels(folder, [1]) == {"x": [1]}
    with pytest.raises(ValueError, match=r"labels is \[2\], expected 'together' or some of \[1\]"):
        named_labels(folder, [2])


def truthful(image, spacing, prompts, previous):
    """All voxels as bright as the newest prompt's, or darker ones for a negative prompt."""
    i, j, k = (round(p / s) for p, s in zip(prompts[-1].positions[0], spacing, strict=True))
    alike = (image - image[i, j, k]).abs() < 50
    return previous | alike if prompts[-1].positive else previous & ~alike


def evaluated(folder: Path, record: Path, count: int, calls: list[int], **settings: object):
    def segment(*args):
        calls.append(1)
        return truthful(*args)

    items = list_cases(folder, "all")[:count]
    labels = named_labels(folder)
    return evaluate(Method(segment), items, labels, record, settings, lambda case: deepest_user, doing="test")


def test_an_evaluation_goes_on_where_it_was(tmp_path: Path) -> None:
    folder, record, calls = write_dataset(tmp_path / "data"), tmp_path / "records/x.json", list[int]()
    evaluated(folder, record, 2, calls)
    first = len(calls)
    whole = evaluated(folder, record, 3, calls)
    assert len(calls) - first == 1  # the third case's one label
    assert list(whole) == ["case_0", "case_1", "case_2"] and list(whole["case_2"]) == ["first"]
    assert whole["case_0"]["second"].dice == [0, 1]
    again = evaluated(folder, record, 3, calls)
    assert again == whole and len(calls) - first == 1


def test_a_case_whose_label_changed_is_followed_again(tmp_path: Path) -> None:
    folder, record, calls = write_dataset(tmp_path / "data"), tmp_path / "x.json", list[int]()
    evaluated(folder, record, 2, calls)
    first = len(calls)
    path = Path(list_cases(folder, "all")[0]["label"])
    label = nib.load(path)
    voxels = np.asarray(label.dataobj).copy()
    voxels[voxels == 2] = 0
    nib.save(nib.Nifti1Image(voxels, label.affine), path)
    assert list(evaluated(folder, record, 2, calls)["case_0"]) == ["first"]
    assert len(calls) - first == 1  # the first case's one label that is left


def test_results_of_another_version_are_not_mixed(tmp_path: Path) -> None:
    folder, record = write_dataset(tmp_path / "data"), tmp_path / "x.json"
    evaluated(folder, record, 1, [])
    content = json.loads(record.read_text())
    content["settings"]["rep3d"] = "0.0.1"
    record.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"x.json: holds results with rep3d '0.0.1', not '{version('rep3d')}'"):
        evaluated(folder, record, 1, [])


def test_results_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    folder, record = write_dataset(tmp_path / "data"), tmp_path / "x.json"
    evaluated(folder, record, 1, [], weights="a", ids=(1, 2))
    evaluated(folder, record, 1, [], weights="a", ids=[1, 2])
    with pytest.raises(ValueError, match="x.json: holds results with weights 'a', not 'b'"):
        evaluated(folder, record, 1, [], weights="b", ids=[1, 2])
    with pytest.raises(ValueError, match="with ids .*, not None"):
        evaluated(folder, record, 1, [], weights="a")


def test_the_summary_counts_by_hand(tmp_path: Path) -> None:
    ours = {
        "a": {"x": Series([0.0, 0.5, 0.86, 0.92], [0.1, 0.2, 0.3])},
        "b": {"x": Series([0.0] * 21, [0.4] * 20), "y": Series([0.0, 1.0], [0.5])},
    }
    automatic = {"a": {"x": Series([0.7], [])}, "b": {"x": Series([0.5], []), "y": Series([0.6], [])}}
    clicked = {"ours": True, "automatic": False}
    text = write_summary({"ours": ours, "automatic": automatic}, clicked, tmp_path, "two cases")
    assert "x, 2 case(s)" in text and "y, 1 case(s)" in text
    row = next(line for line in text.splitlines() if line.startswith("| ours"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    # Means of (0, 0), (0.5, 0), (0.86, 0), (0.92, 0) ...; (2 + 20) / 2 and (3 + 20) / 2 clicks, one failure each.
    assert cells[1:7] == ["0.000", "0.250", "0.430", "0.460", "0.460", "0.460"]
    assert cells[7:] == ["0.000 to 0.920", "11.0 (1)", "11.5 (1)", "0.40"]
    level = next(line for line in text.splitlines() if line.startswith("| automatic"))
    assert [cell.strip() for cell in level.strip("|").split("|")][1:4] == ["0.600", "-", "-"]
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["ours"]["x"]["clicks_for_0.85"]["mean"] == 11 and summary["ours"]["x"]["failures_for_0.90"] == 1
    with (tmp_path / "clicks.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 + 21 + 2 + 3
    assert rows[1] == {"method": "ours", "case": "a", "label": "x", "clicks": "1", "dice": "0.5000", "seconds": "0.100"}
    assert (tmp_path / "clicks.png").read_bytes().startswith(b"\x89PNG")


def test_labels_that_no_case_holds_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of the cases holds any of the labels"):
        write_summary({"ours": {"a": {}}}, {"ours": True}, tmp_path, "one case")
