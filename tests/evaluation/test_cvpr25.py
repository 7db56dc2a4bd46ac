"""The scores of the CVPR 2025 protocol, on cases whose numbers are worked out by hand."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from rep3d.evaluation.cvpr25 import ChallengeCase, Scores, evaluate_case, next_click, read_case
from rep3d.interactive.prompts import Prompt, box, point

SPACING = (3.0, 1.0, 2.0)
CUBES = [(slice(1, 4), slice(2, 6), slice(x, x + 3)) for x in (2, 12, 22, 32, 42, 52, 62, 72, 82, 92)]
SHAPE = (6, 9, 100)


def cubes(*numbers: int) -> torch.Tensor:
    """Some of ten cubes of one size, at least 14 mm apart."""
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    for number in numbers:
        mask[CUBES[number]] = True
    return mask


def case(truth: torch.Tensor, boxes: list | None = None) -> ChallengeCase:
    return ChallengeCase("case", torch.zeros(SHAPE), truth.long(), SPACING, boxes)


BOX = {"z_min": 1, "z_max": 3, "z_mid": 2, "z_mid_y_min": 1, "z_mid_y_max": 6, "z_mid_x_min": 0, "z_mid_x_max": 9}


def answers(*masks: torch.Tensor):
    """A method that gives one mask after the other, and remembers what it was told."""
    told: list[tuple[list[Prompt], torch.Tensor]] = []

    def segment(image, spacing, prompts, previous):
        told.append((list(prompts), previous.clone()))
        return masks[len(told) - 1].clone()

    return segment, told


@pytest.mark.slow
def test_areas_and_final_scores_of_one_label() -> None:
    # Two cubes are true. Equal cubes far apart: Dice and surface Dice are both 2 shared / (found + true).
    segment, told = answers(cubes(), cubes(0), cubes(0, 1, 2), cubes(0, 1))
    scores = evaluate_case(case(cubes(0, 1), [BOX]), segment)
    two_thirds, four_fifths = 2 * 1 / (1 + 2), 2 * 2 / (3 + 2)
    assert scores.dsc == pytest.approx([0, two_thirds, four_fifths, 1, 1, 1])
    assert scores.nsd == pytest.approx([0, two_thirds, four_fifths, 1, 1, 1])
    area = (two_thirds + four_fifths) / 2 + (four_fifths + 1) / 2 + 1 + 1
    assert scores.summary == pytest.approx({"dsc_auc": area, "nsd_auc": area, "dsc_final": 1, "nsd_final": 1})
    assert len(told) == 4  # perfect after the third click: nothing is clicked any more
    kinds = [[(prompt.kind, prompt.positive) for prompt in prompts] for prompts, _ in told]
    assert kinds[3] == [("box", True), ("point", True), ("point", True), ("point", False)]
    assert told[0][0] == [box((1, 1, 0), (3, 6, 9), SPACING)]
    assert [int(previous.sum()) for _, previous in told] == [0, 0, 36, 108]


def test_a_perfect_method_has_an_area_of_four() -> None:
    segment, told = answers(cubes(0), cubes(0))
    scores = evaluate_case(case(cubes(0), [BOX]), segment)
    assert scores.summary == {"dsc_auc": 4, "nsd_auc": 4, "dsc_final": 1, "nsd_final": 1}
    assert len(told) == 1


def test_the_first_step_counts_nothing_without_boxes() -> None:
    segment, told = answers(cubes(0))
    scores = evaluate_case(case(cubes(0)), segment)
    assert scores.dsc == [0, 1, 1, 1, 1, 1] and scores.summary["dsc_auc"] == 4
    assert [prompt.kind for prompt in told[0][0]] == ["point"]


def test_the_surface_dice_counts_nothing_up_to_a_dice_of_a_fifth() -> None:
    nine = list(range(1, 10))
    segment, _ = answers(*([cubes(0)] * 5))
    scores = evaluate_case(case(cubes(*nine, 0)), segment)  # Dice 2 / (1 + 10)
    assert scores.dsc[1:] == pytest.approx([2 / 11] * 5) and scores.nsd == [0] * 6
    segment, _ = answers(*([cubes(0)] * 5))
    scores = evaluate_case(case(cubes(*nine[:8])), segment)
    assert scores.dsc[1] == 0
    segment, _ = answers(*([cubes(0, 1)] * 5))
    scores = evaluate_case(case(cubes(*nine, 0)), segment)  # 4 / (2 + 10)
    assert scores.nsd[1:] == pytest.approx([1 / 3] * 5)


def test_two_millimetres_are_tolerated_along_each_axis_by_its_spacing() -> None:
    truth = torch.zeros(12, 12, 12, dtype=torch.bool)
    truth[4:8, 4:8, 4:8] = True
    found = []
    for axis in range(3):
        segment, _ = answers(*([truth.roll(1, axis)] * 5))
        one = ChallengeCase("case", torch.zeros(12, 12, 12), truth.long(), SPACING, None)
        found.append(evaluate_case(one, segment).nsd[1])
    assert found[0] < 0.9 and found[1] == 1 and found[2] == 1  # moved by 3, 1 and 2 mm


def test_labels_count_alike_and_share_no_voxel() -> None:
    truth = cubes(0).long() + 2 * cubes(1, 2).long()
    told: list[tuple[bool, int]] = []

    def segment(image, spacing, prompts, previous):
        told.append((prompts[0].positive, round(prompts[0].positions[0][2] / SPACING[2])))
        return cubes(0, 1)  # whatever is asked for

    scores = evaluate_case(case(truth), segment)
    # Label 1 claims both cubes first. The lower id has what nobody held: Dice of label 1 is 2 / 3, of label 2 0.
    assert scores.dsc[1] == pytest.approx((2 / 3 + 0) / 2)
    assert told[:2] == [(True, 3), (True, 23)] or told[:2] == [(True, 3), (True, 13)]
    assert scores.labels == 2


def test_a_case_that_takes_too_long_is_late() -> None:
    assert Scores([1.0] * 6, [1.0] * 6, 180.0, 2).in_time and not Scores([1.0] * 6, [1.0] * 6, 180.1, 2).in_time


def test_missed_and_superfluous_voxels_that_touch_are_one_error() -> None:
    truth, mask = np.zeros((9, 9, 20), dtype=bool), np.zeros((9, 9, 20), dtype=bool)
    truth[2:7, 2:7, 2:5] = True  # 75 missed, together with
    mask[2:7, 2:7, 5:7] = True  # 50 that are too many: deepest is the middle of both
    truth[1:8, 1:8, 12:14] = True  # 98 missed, apart
    i, j, k = next_click(truth, mask)
    assert (i, j) == (4, 4) and k == 4


def test_ties_are_drawn_with_the_challenges_seed() -> None:
    truth = np.zeros((3, 3, 12), dtype=bool)
    truth[1, 1, 1:11] = True
    ties = [(1, 1, k) for k in range(1, 11)]
    assert next_click(truth, truth & False) == ties[np.random.RandomState(42).choice(10)] == (1, 1, 7)


def test_depth_counts_voxels_and_large_errors_are_measured_coarsely() -> None:
    truth = np.zeros((20, 20, 20), dtype=bool)
    truth[3:14, 4:15, 5:16] = True
    assert next_click(truth, truth & False) == (8, 9, 10)
    coarse = next_click(truth, truth & False, most_voxels=100)
    assert coarse is not None and max(abs(a - b) for a, b in zip(coarse, (8, 9, 10), strict=True)) <= 2


def test_nothing_wrong_means_no_click() -> None:
    assert next_click(np.ones((2, 2, 2), dtype=bool), np.ones((2, 2, 2), dtype=bool)) is None


def write(path: Path, **changed) -> Path:
    truth = np.zeros((4, 5, 6), dtype=np.uint8)
    truth[1:3, 1:3, 1:3] = 3
    content = {"imgs": truth * 50, "gts": truth, "spacing": np.array([2.5, 1, 1]), "boxes": [BOX], **changed}
    np.savez_compressed(path, **{name: value for name, value in content.items() if value is not None})
    return path


def test_the_challenges_files_are_read(tmp_path: Path) -> None:
    read = read_case(write(tmp_path / "CT_x.npz"))
    assert read.name == "CT_x" and read.ids == [3] and read.spacing == (2.5, 1, 1) and read.image.shape == (4, 5, 6)
    assert read.boxes == [BOX]
    numpy_box = {name: np.int64(value) for name, value in BOX.items()}
    assert read_case(write(tmp_path / "b.npz", boxes=[numpy_box])).boxes == [BOX]
    assert read_case(write(tmp_path / "c.npz", boxes=None)).boxes is None


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"gts": None}, "has no 'gts', only imgs, spacing, boxes"),
        ({"imgs": np.zeros((4, 5))}, 'the shape (4, 5), "gts" (4, 5, 6)'),
        ({"gts": np.zeros((4, 5, 6), dtype=np.uint8)}, "holds no label ids"),
        ({"gts": np.full((4, 5, 6), 0.5)}, "holds no label ids"),
        ({"spacing": np.array([1.0, 1.0])}, "expected three positive numbers"),
        ({"spacing": np.array([1.0, 0.0, 1.0])}, "expected three positive numbers"),
        ({"boxes": [BOX, BOX]}, "expected one with z_min"),
        ({"boxes": [{"z_min": 1}]}, "expected one with z_min"),
        ({"imgs": np.full((4, 5, 6), np.nan)}, "NaN or infinite"),
        ({"boxes": [datetime.date(2026, 1, 1)]}, "holds datetime.date, expected dictionaries of numbers"),
    ],
)
def test_files_that_are_no_case_are_refused_by_name(tmp_path: Path, changed: dict, told: str) -> None:
    path = write(tmp_path / "x.npz", **changed)
    with pytest.raises(ValueError) as caught:
        read_case(path)
    assert str(path) in str(caught.value) and told in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="x.npz: no case of the challenge"):
        read_case(tmp_path / "x.npz")


def test_a_click_is_told_in_millimetres() -> None:
    segment, told = answers(*([cubes(0)] * 5))
    evaluate_case(case(cubes(0)), segment)
    assert told[0][0] in ([point((2, y, 3), SPACING)] for y in (3, 4))
