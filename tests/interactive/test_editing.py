"""Steps of an edit: there and back, exactly, whatever the network answers."""

import json
import random
import time
import zlib
from dataclasses import replace

import pytest
import torch
from test_correction import SIZE, everything, marked, random_case, random_network

from rep3d.interactive import change, history, steps, stored_label
from rep3d.interactive.editing import LabelEdit
from rep3d.interactive.prompts import point, scribble
from rep3d.interactive.scene import Scene

SHAPE, SPACING = (40, 30, 24), (1.0, 1.0, 2.0)


class Counted:
    """A network that counts its forwards."""

    def __init__(self, network=marked):
        self.network, self.count = network, 0

    def __call__(self, channels):
        self.count += 1
        return self.network(channels)


def scene(network=marked, **more):
    image = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    return Scene(network, image, SPACING, size=SIZE, **more)


def clicks(count, positive=True):
    """Points that lie too far apart to know of each other."""
    return [point((2 + 6 * (n % 6), 3 + 6 * (n // 6), 12), SPACING, positive) for n in range(count)]


def boxed(before, answer):
    """What a client shows that knows the mask before and is told the changed box only."""
    shown = before.clone()
    if answer.changed is not None:
        shown[answer.changed] = answer.part
    return shown


def cube(low, high):
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[low:high, low:high, low:high] = True
    return mask


@pytest.mark.parametrize("seed", range(6))
def test_undo_and_redo_are_exact(seed):
    image, spacing, prompts, locks = random_case(seed)
    taken = locks["taken"]
    edit = LabelEdit(image.shape)
    edit.paint(locks["previous"] if taken is None else locks["previous"] & ~taken)
    case = Scene(random_network(seed), image, spacing, taken, SIZE)
    masks = [edit.mask]
    for prompt in prompts:
        answer = edit.show([prompt], case)
        assert torch.equal(boxed(masks[-1], answer), edit.mask)
        masks.append(edit.mask)
    for expected in masks[-2::-1]:
        before = edit.mask
        assert torch.equal(boxed(before, edit.undo(taken)), expected) and torch.equal(edit.mask, expected)
    for expected in masks[1:]:
        before = edit.mask
        assert torch.equal(boxed(before, edit.redo(taken)), expected) and torch.equal(edit.mask, expected)
    assert edit.prompts == tuple(prompts)


def test_25_undos_and_redos():
    edit, case = LabelEdit(SHAPE), scene()
    masks = [edit.mask]
    for prompt in clicks(25):
        masks.append(edit.show([prompt], case).mask)
    assert edit.undoable == 25
    for number in range(24, -1, -1):
        assert torch.equal(edit.undo().mask, masks[number]) and edit.prompts == tuple(clicks(number))
    assert edit.undo().changed is None and edit.redoable == 25
    for number in range(1, 26):
        assert torch.equal(edit.redo().mask, masks[number])
    assert edit.redo().changed is None and edit.prompts == tuple(clicks(25))


def test_a_new_step_ends_what_could_be_redone():
    edit, case = LabelEdit(SHAPE), scene()
    for prompt in clicks(3):
        edit.show([prompt], case)
    edit.undo()
    edit.paint(cube(2, 8))
    assert edit.redoable == 0 and edit.undoable == 3


def test_old_steps_go_by_number_and_by_size(monkeypatch):
    edit, case = LabelEdit(SHAPE), scene()
    monkeypatch.setattr(history, "MAX_STEPS", 4)
    for prompt in clicks(6):
        edit.show([prompt], case)
    assert edit.undoable == 4 and edit.prompts == tuple(clicks(6))
    monkeypatch.setattr(history, "MOST_STEP_BYTES", 2000)
    for seed in range(4):
        edit.paint(noise(seed))
    assert edit.undoable == 1
    before = edit.mask
    edit.undo()
    assert torch.equal(edit.redo().mask, before)


def noise(seed):
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)) > 0.5


def test_twenty_steps_can_be_undone_however_large_they_are(monkeypatch):
    monkeypatch.setattr(history, "MAX_STEP_BYTES", 2000)
    edit = LabelEdit(SHAPE)
    for seed in range(25):
        edit.paint(noise(seed))
    assert edit.undoable == 20 and edit.steps == 25
    for seed in range(23, 3, -1):
        assert torch.equal(edit.undo().mask, noise(seed))
    assert edit.undo().changed is None


def test_a_painted_mask_wins_and_is_a_step():
    """What the user rubs out stays out, though an earlier click had asked for it; as long as none asks again."""
    edit, case = LabelEdit(SHAPE), scene()
    first, second = clicks(2)
    by_click = edit.show([first], case).mask
    painted = cube(10, 20)
    answer = edit.paint(painted)
    assert torch.equal(boxed(by_click, answer), painted) and not answer.forwards
    voxel = (2, 3, 12)
    assert by_click[voxel] and not painted[voxel]
    after = edit.show([second], case).mask
    assert not after[voxel] and after[8, 3, 12] and torch.equal(after & cube(10, 20), painted)
    assert torch.equal(edit.undo().mask, painted) and torch.equal(edit.undo().mask, by_click)
    assert edit.show([first], case).mask[voxel]


def test_painting_the_same_mask_is_no_step():
    edit = LabelEdit(SHAPE)
    edit.paint(cube(3, 9))
    assert edit.paint(cube(3, 9)).changed is None and edit.undoable == 1


def test_painted_masks_are_the_edits_own():
    edit, mask = LabelEdit(SHAPE), cube(3, 9)
    edit.paint(mask)
    mask[:] = False
    assert torch.equal(edit.mask, cube(3, 9))


def test_contradicting_clicks_the_later_wins():
    edit, case = LabelEdit(SHAPE), scene()
    edit.paint(cube(5, 15))
    here = (10, 10, 10)
    assert not edit.show([point(here, SPACING, positive=False)], case).mask[here]
    assert edit.show([point(here, SPACING)], case).mask[here]


# --- complete lists


def test_the_same_list_needs_no_network():
    network = Counted()
    edit, case, three = LabelEdit(SHAPE), scene(network), clicks(3)
    first = edit.bring_to(three, case)
    assert first.forwards
    used = network.count
    for again in (three, three[::-1]):
        answer = edit.bring_to(again, case)
        assert not answer.forwards and answer.changed is None and torch.equal(answer.mask, first.mask)
    assert network.count == used and edit.undoable == 1


def test_several_new_prompts_are_one_step():
    edit, case = LabelEdit(SHAPE), scene()
    edit.bring_to(clicks(1), case)
    edit.bring_to(clicks(4), case)
    assert edit.undoable == 2 and edit.prompts == tuple(clicks(4))


def test_a_shorter_list_gives_exactly_the_earlier_mask():
    network = Counted(random_network(3))
    edit, case = LabelEdit(SHAPE), scene(network)
    masks = [edit.bring_to(clicks(count), case).mask for count in range(6)]
    used = network.count
    for count in (4, 2, 0, 3, 5):  # the last two are redone
        answer = edit.bring_to(clicks(count), case)
        assert torch.equal(answer.mask, masks[count]) and not answer.forwards, count
        assert edit.prompts == tuple(clicks(count))
    assert network.count == used


def test_a_point_that_vanished_from_the_middle():
    edit, case = LabelEdit(SHAPE), scene()
    for count in range(1, 6):
        edit.bring_to(clicks(count), case)
    without = [*clicks(2), *clicks(5)[3:]]
    answer = edit.bring_to(without, case)
    alone = LabelEdit(SHAPE)
    for prompts in (without[:1], without[:2], without):
        expected = alone.bring_to(prompts, case).mask
    assert torch.equal(answer.mask, expected) and edit.prompts == tuple(without)
    assert not answer.mask[14, 3, 12] and answer.mask[20, 3, 12]


def test_a_point_of_several_at_once_vanished():
    edit, case = LabelEdit(SHAPE), scene()
    edit.bring_to(clicks(3), case)
    answer = edit.bring_to([clicks(3)[0], clicks(3)[2]], case)
    assert torch.equal(answer.mask, LabelEdit(SHAPE).bring_to([clicks(3)[0], clicks(3)[2]], case).mask)


def test_one_of_two_equal_points_vanished():
    edit, case = LabelEdit(SHAPE), scene()
    here = clicks(1)[0]
    first = edit.bring_to([here], case).mask
    edit.bring_to([here, here], case)
    assert torch.equal(edit.bring_to([here], case).mask, first) and edit.prompts == (here,)


def test_new_points_among_known_ones_undo_nothing():
    """Clients send positive points first, then negative ones."""
    network = Counted()
    edit, case = LabelEdit(SHAPE), scene(network)
    positive, negative = clicks(3), clicks(4, positive=False)[3:]
    edit.bring_to([positive[0], *negative], case)
    steps = edit.undoable
    edit.bring_to([*positive, *negative], case)
    assert edit.undoable == steps + 1 and edit.prompts == (positive[0], *negative, *positive[1:])


def test_hand_edits_stay_where_an_older_point_vanishes():
    edit, case = LabelEdit(SHAPE), scene()
    first, second, third = clicks(3)
    edit.bring_to([first], case)
    edit.bring_to([first, second], case)
    edit.paint(edit.mask | cube(16, 22))
    edit.bring_to([first, second, third], case)
    answer = edit.bring_to([first, third], case)
    assert (answer.mask & cube(16, 22)).sum() == cube(16, 22).sum()
    assert answer.mask[2, 3, 12] and answer.mask[14, 3, 12] and not answer.mask[8, 3, 12]
    answer = edit.bring_to([first], case)
    assert not answer.forwards and answer.mask[2, 3, 12] and (answer.mask & cube(16, 22)).sum() == cube(16, 22).sum()


def test_without_a_way_back_the_list_is_shown_anew(monkeypatch):
    monkeypatch.setattr(history, "MAX_STEPS", 2)
    edit, case = LabelEdit(SHAPE), scene()
    for count in range(1, 6):
        edit.bring_to(clicks(count), case)
    before = edit.mask
    answer = edit.bring_to(clicks(5)[1:], case)
    assert torch.equal(answer.mask, LabelEdit(SHAPE).bring_to(clicks(5)[1:], case).mask)
    assert torch.equal(boxed(before, answer), answer.mask) and edit.prompts == tuple(clicks(5)[1:])
    assert not edit.bring_to([], case).mask.any() and edit.prompts == ()


def test_an_empty_list_after_more_steps_than_can_be_undone(monkeypatch):
    monkeypatch.setattr(history, "MAX_STEPS", 3)
    edit, case = LabelEdit(SHAPE), scene()
    for count in range(1, 6):
        edit.bring_to(clicks(count), case)
    before = edit.mask
    answer = edit.bring_to([], case)
    assert not answer.forwards and not answer.mask.any() and edit.prompts == ()
    assert torch.equal(boxed(before, answer), answer.mask)


def test_what_was_painted_stays_where_there_is_no_way_back(monkeypatch):
    """Also after a restart; what was painted over it later, too."""
    monkeypatch.setattr(history, "MAX_STEPS", 2)
    edit, case = LabelEdit(SHAPE), scene()
    edit.paint(cube(15, 22))
    edit.paint(edit.mask & ~cube(15, 17))
    edit.bring_to(clicks(1), case)
    edit.paint(edit.mask | cube(2, 4))
    painted = (cube(15, 22) & ~cube(15, 17)) | cube(2, 4)
    for count in range(2, 7):
        edit.bring_to(clicks(count), case)
        edit = LabelEdit.from_bytes(edit.to_bytes())
    assert edit.undoable == 2 and edit.steps == 9
    without = edit.bring_to(clicks(6)[1:], case).mask
    assert not without[2, 3, 12] and without[8, 3, 12] and (without & painted).sum() == painted.sum()
    for count in range(6, 10):
        edit.bring_to(clicks(count), case)
    assert torch.equal(edit.bring_to([], case).mask, painted)


# --- locks


def test_the_same_list_under_other_locks_is_answered_anew():
    """As if they had been so from the start; under the same ones it is remembered, also where they let go of it."""
    network = Counted()
    edit, free = LabelEdit(SHAPE), scene(network)
    locked = replace(free, taken=cube(5, 12), locks="liver")
    three = [point((8, 8, 8), SPACING), point((10, 9, 8), SPACING), point((30, 20, 15), SPACING)]
    masks = {}
    for case in (free, locked):
        alone = LabelEdit(SHAPE)
        masks[case.locks] = [alone.bring_to(three[:count], case).mask for count in range(4)]
    assert not torch.equal(masks[""][3], masks["liver"][3])
    for count in range(1, 4):
        edit.bring_to(three[:count], free)
    for case in (locked, free, locked):
        before = edit.mask
        answer = edit.bring_to(three, case)
        assert answer.forwards and torch.equal(answer.mask, masks[case.locks][3])
        assert torch.equal(boxed(before, answer), answer.mask) and edit.undoable == 3
        assert answer.locked == (tuple(three[:2]) if case is locked else ())
        edit = LabelEdit.from_bytes(edit.to_bytes())
        used = network.count
        again = edit.bring_to(three, replace(case, taken=None))
        assert not again.forwards and torch.equal(again.mask, answer.mask) and network.count == used
        assert torch.equal(edit.bring_to(three[:2], case).mask, masks[case.locks][2])  # the way back is that of today
        assert torch.equal(edit.bring_to(three, case).mask, answer.mask) and network.count == used
    assert torch.equal(edit.bring_to(three[:2], free).mask, masks[""][2])
    edit.bring_to(three[:1], free)
    assert torch.equal(edit.bring_to(three[:2], locked).mask, masks["liver"][2])  # nothing is redone from other locks


def test_a_click_counts_once_the_locked_label_has_let_go_of_it():
    """Under the same locks, whose voxels are fewer; what was not in its way is not asked for again."""
    edit, network, three = LabelEdit(SHAPE), Counted(), clicks(3)
    liver = replace(scene(network), taken=cube(2, 13), locks="liver")
    assert edit.bring_to(three, liver).locked == tuple(three[:2]) and not edit.mask[2, 3, 12]
    count = network.count
    assert edit.bring_to(three, liver).locked == tuple(three[:2]) and network.count == count
    smaller = replace(liver, taken=cube(4, 13))
    assert edit.bring_to(three, smaller).locked == () and edit.mask[2, 3, 12]
    count = network.count
    assert not edit.bring_to(three, smaller).forwards and network.count == count


def test_what_a_locked_label_has_grown_into_is_given_back():
    """Under the same locks, whose voxels are more; once, also where the user has painted there."""
    edit, network, three = LabelEdit(SHAPE), Counted(), clicks(3)
    edit.paint(cube(20, 22))
    liver = replace(scene(network), taken=cube(9, 11), locks="liver")
    edit.bring_to(three, liver)
    count, larger = network.count, replace(liver, taken=cube(9, 11) | cube(20, 22))
    larger.taken[8, 3, 12] = True  # the second point
    answer = edit.bring_to(three, larger)
    assert network.count > count and answer.locked == tuple(three[1:2]) and not edit.mask[8, 3, 12]
    assert torch.equal(edit.mask & larger.taken, cube(20, 22)) and edit.mask[2, 3, 12] and edit.mask[14, 3, 12]
    count = network.count
    assert not edit.bring_to(three, larger).forwards and network.count == count


@pytest.mark.parametrize("later", ["an older point vanishes", "locks change", "undone and redone"])
def test_limits_of_an_answer_hold_where_it_is_shown_again(later):
    """Also after a restart, and not for other answers."""
    near, stroke, far = point((12, 12, 12), SPACING), scribble([(30, 20, 12)], SPACING), point((30, 27, 12), SPACING)
    edit, case = LabelEdit(SHAPE), scene(lambda channels: channels[:, 2:3] - 0.2)  # all that is near
    limits = torch.ones(SHAPE, dtype=torch.bool)
    limits[29:32, 19:22, 11:14] = False
    edit.bring_to([near], case)
    before = edit.mask
    edit.show([stroke], case, limits)
    added = edit.mask & ~before
    assert added[30, 20, 12] and not (added & limits).any()
    for _ in range(2):
        edit = LabelEdit.from_bytes(edit.to_bytes())
        if later == "an older point vanishes":
            edit.bring_to([stroke], case)
            assert torch.equal(edit.mask, added)
        elif later == "locks change":
            locked = replace(case, taken=cube(11, 14), locks="liver")
            assert edit.bring_to([near, stroke], locked).locked == (near,)
            assert torch.equal(edit.mask & limits, edit.mask & limits & before) and edit.mask[30, 20, 12]
        else:
            assert torch.equal(edit.undo().mask, before) and torch.equal(edit.redo().mask, before | added)
        edit.bring_to([near, stroke], case)
    edit.bring_to([stroke, far], case)
    assert (edit.mask & limits).any() and edit.mask[30, 27, 12]


def test_what_was_painted_stays_where_locks_change():
    edit, free = LabelEdit(SHAPE), scene()
    edit.bring_to(clicks(1), free)
    edit.paint(edit.mask | cube(16, 22))
    edit.bring_to(clicks(2), free)
    answer = edit.bring_to(clicks(2), replace(free, taken=cube(0, 4), locks="liver"))
    assert (answer.mask & cube(16, 22)).sum() == cube(16, 22).sum() and edit.undoable == 3


def test_a_failure_under_other_locks_changes_nothing():
    edit, free = LabelEdit(SHAPE), scene()
    for count in range(1, 4):
        edit.bring_to(clicks(count), free)
    before = edit.to_bytes()
    with pytest.raises(ValueError, match="NaN or infinite"):
        edit.bring_to(clicks(3), replace(scene(nan), taken=edit.mask, locks="liver"))
    assert edit.to_bytes() == before


@pytest.mark.parametrize("seed", range(6))
def test_any_lists_one_after_the_other(seed):
    """The client's picture, which it gets by boxes, is ours; the prompts are those of the last list."""
    rng, edit = random.Random(seed), LabelEdit(SHAPE)
    case, shown, pool = scene(random_network(seed)), edit.mask, clicks(8) + clicks(4, positive=False)
    for _ in range(12):
        kind = rng.random()
        if kind < 0.6:
            wanted = rng.sample(pool, rng.randrange(len(pool)))
            answer = edit.bring_to(wanted, case)
            assert sorted(map(repr, edit.prompts)) == sorted(map(repr, wanted))
            assert all(answer.mask[tuple(round(p / s) for p, s in zip(one.positions[0], SPACING, strict=True))]
                       == one.positive for one in edit.prompts[-1:])  # fmt: skip
        elif kind < 0.8:
            answer = edit.paint(torch.rand(SHAPE) > 0.9)
        else:
            answer = edit.undo() if rng.random() < 0.6 else edit.redo()
        shown = boxed(shown, answer)
        assert torch.equal(shown, edit.mask)
        edit = LabelEdit.from_bytes(edit.to_bytes())


# --- what must not change anything


def nan(channels):
    return torch.full_like(channels[:, :1], float("nan"))


@pytest.mark.parametrize(
    ("step", "match"),
    [
        (lambda edit: edit.show([point((100, 3, 3), SPACING)], scene()), "prompt 1, a point at voxel .*lies outside"),
        (lambda edit: edit.bring_to([*clicks(1), point((-1, 3, 3), SPACING)], scene()), "prompt 2"),
        (lambda edit: edit.bring_to(clicks(9)[4:], scene(nan)), "NaN or infinite"),
        (lambda edit: edit.show(clicks(1) * 1001, scene()), "would have 1004 prompts"),
        (lambda edit: edit.bring_to(clicks(1) * 1001, scene()), "would have 1001 prompts"),
        (lambda edit: edit.show([], scene()), "new must be"),
        (lambda edit: edit.paint(torch.zeros(3, 3, 3, dtype=torch.bool)), "of the scan's shape"),
        (lambda edit: edit.paint(torch.zeros(SHAPE)), "of bool"),
        (lambda edit: edit.show(clicks(1), replace(scene(), image=torch.zeros(3, 3, 3))), "expected that of the label"),
        (lambda edit: edit.show(clicks(1), scene(taken=torch.zeros(SHAPE))), "taken must be of bool"),
    ],
)  # fmt: skip
def test_a_step_that_fails_changes_nothing(step, match):
    edit = LabelEdit(SHAPE)
    for count in range(1, 4):
        edit.bring_to(clicks(count), scene())
    edit.undo()
    edit.redo()
    edit.paint(edit.mask | cube(15, 20))
    edit.undo()
    before = edit.to_bytes()
    with pytest.raises(ValueError, match=match):
        step(edit)
    assert edit.to_bytes() == before


@pytest.mark.parametrize("packed", range(4))
@pytest.mark.parametrize("act", ["show", "paint", "begin", "settle", "undo", "redo"])
def test_too_little_memory_changes_nothing(act, packed, monkeypatch):
    """Wherever in a step it ends."""
    edit = LabelEdit(SHAPE)
    edit.show(clicks(1), scene())
    edit.paint(cube(2, 8))
    edit.begin(cube(2, 9))
    edit.undo()
    edit.begin(cube(2, 10))
    edit.begin(cube(2, 11))
    edit.undo()
    before, calls = edit.to_bytes(), []

    def scarce(function):
        def call(*args):
            calls.append(1)
            if len(calls) > packed:
                raise MemoryError
            return function(*args)

        return call

    arguments = {"show": (clicks(2)[1:], scene()), "paint": (cube(3, 7),), "begin": (cube(3, 7),)}
    with monkeypatch.context() as patch:
        for function in (steps.pack, steps.unpack):
            patch.setattr(steps, function.__name__, scarce(function))
        try:
            getattr(edit, act)(*arguments.get(act, ()))
        except MemoryError:
            assert edit.to_bytes() == before
        else:
            assert 0 < len(calls) <= packed


def test_undo_gives_nothing_of_a_locked_label_back():
    edit, case = LabelEdit(SHAPE), scene()
    edit.paint(cube(5, 15))
    edit.paint(torch.zeros(SHAPE, dtype=torch.bool))
    taken = cube(5, 10)
    assert torch.equal(edit.undo(taken).mask, cube(5, 15) & ~taken)
    edit.redo(taken)
    assert torch.equal(edit.bring_to([], replace(case, taken=taken)).mask, torch.zeros(SHAPE, dtype=torch.bool))
    answer = edit.show([point((7, 7, 7), SPACING)], replace(case, taken=taken))
    assert answer.locked == (point((7, 7, 7), SPACING),) and not (answer.mask & taken).any()


def test_reset_forgets_all():
    edit, case = LabelEdit(SHAPE), scene()
    before = edit.bring_to(clicks(3), case).mask
    answer = edit.reset()
    assert torch.equal(boxed(before, answer), torch.zeros(SHAPE, dtype=torch.bool))
    assert not edit.mask.any() and edit.prompts == () and edit.undoable == edit.redoable == 0


def test_settled_prompts_are_remembered_but_are_the_labels_no_longer(monkeypatch):
    """Until it is reset; also where prompts vanish to which there is no way back."""
    monkeypatch.setattr(history, "MAX_STEPS", 2)
    edit, case, prompts = LabelEdit(SHAPE), scene(), clicks(6)
    edit.show(prompts[:2], case)
    edit.settle()
    edit.show(prompts[2:3], case)
    mask = edit.mask
    edit.settle()
    edit = LabelEdit.from_bytes(edit.to_bytes())
    assert torch.equal(edit.mask, mask) and edit.prompts == () and edit.earlier == tuple(prompts[:3])
    for prompt in prompts[3:]:
        edit.show([prompt], case)
    assert edit.undoable == 2 and torch.equal(edit.bring_to([], case).mask, mask)
    assert edit.earlier == tuple(prompts[:3])
    edit.reset()
    assert edit.earlier == edit.prompts == ()


# --- what is left coarse


def large_scene(tiles):
    image = torch.zeros(48, 48, 48)
    image[5:40, 5:40, 5:40] = 1
    return Scene(lambda channels: 0.5 - channels[:, :1].abs(), image, (1.0, 1.0, 1.0), size=16, tiles=tiles)


def test_what_is_refined_later_is_told_with_the_next_answer():
    edit, few = LabelEdit((48,) * 3), large_scene(tiles=0)
    shown = edit.show([point((22, 22, 22), (1, 1, 1))], few).mask
    coarse = shown
    assert edit.is_coarse
    while edit.is_coarse:
        edit.refine(replace(few, tiles=1))
    at_once = LabelEdit((48,) * 3).show([point((22, 22, 22), (1, 1, 1))], large_scene(tiles=1000)).mask
    assert torch.equal(edit.mask, at_once) and not torch.equal(edit.mask, coarse)
    kept = LabelEdit.from_bytes(edit.to_bytes())
    for one in (edit, kept):
        answer = one.bring_to([point((22, 22, 22), (1, 1, 1))], few)
        assert not answer.forwards and torch.equal(boxed(shown, answer), at_once)
        assert (
            one.undo().changed == one.redo().changed == answer.changed
            and one.bring_to(one.prompts, few).changed is None
        )
        assert not one.undo().mask.any() and torch.equal(one.redo().mask, at_once)


@pytest.mark.parametrize("later", ["", "more", "the same"])
def test_what_is_refined_later_leaves_alone_what_was_taken(later):
    """By the answer that it belongs to, or by a later one, though that may be a remembered one."""
    low, high = point((12, 12, 12), (1, 1, 1)), point((12, 12, 16), (1, 1, 1))
    taken, image = torch.zeros(28, 28, 28, dtype=torch.bool), torch.zeros(28, 28, 28)
    taken[:, :, :8], image[3:24, 3:24, 3:24] = True, 1
    few = replace(large_scene(tiles=0), image=image)
    edit = LabelEdit((28,) * 3)
    edit.show([low], few if later else replace(few, taken=taken))
    if later == "more":
        edit.show([high], replace(few, taken=taken))
    elif later:
        taken &= ~edit.mask
        assert not edit.bring_to([low], replace(few, taken=taken, locks="liver")).forwards
    before, coarse = edit.mask, edit.coarse
    while edit.is_coarse:
        edit.refine(replace(few, tiles=1))
    assert not torch.equal(edit.mask, before) and not (edit.mask & ~before & taken).any()
    assert all(one.nbytes > len(one.region) + len(one.kept) for one in coarse)


def test_other_steps_end_what_is_coarse():
    edit, few = LabelEdit((48,) * 3), large_scene(tiles=0)
    edit.show([point((22, 22, 22), (1, 1, 1))], few)
    edit.undo()
    assert not edit.is_coarse and edit.refine(few) is None


def refine_all(edit, case):
    while edit.is_coarse:
        edit.refine(replace(case, tiles=1))
    return edit.mask


FIRST, SECOND = point((22, 22, 22), (1, 1, 1)), point((2, 2, 2), (1, 1, 1))


@pytest.mark.parametrize("refined", [0, 2])
@pytest.mark.parametrize("act", ["show", "paint", "delete"])
def test_what_a_step_left_coarse_is_refined_after_an_undo_to_it(act, refined):
    """Also where some of it was refined after the step that is undone."""
    edit, few = LabelEdit((48,) * 3), large_scene(tiles=0)
    coarse = edit.show([FIRST], few).mask
    if act == "paint":
        edit.paint(torch.zeros(48, 48, 48, dtype=torch.bool))
    else:
        edit.show([SECOND], few)
        for _ in range(refined):
            edit.refine(replace(few, tiles=1))
    undone = edit.bring_to([FIRST], few) if act == "delete" else edit.undo()
    assert torch.equal(undone.mask, coarse) and not undone.forwards
    alone = LabelEdit((48,) * 3)
    alone.show([FIRST], few)
    assert torch.equal(refine_all(edit, few), refine_all(alone, few)) and not torch.equal(edit.mask, coarse)


def test_what_was_undone_is_refined_once_it_is_redone():
    edit, few = LabelEdit((48,) * 3), large_scene(tiles=0)
    shown = edit.show([FIRST], few).mask
    edit.undo()
    assert torch.equal(edit.redo().mask, shown) and not torch.equal(refine_all(edit, few), shown)


@pytest.mark.parametrize("act", ["show", "paint"])
def test_redo_and_undo_are_exact_where_the_mask_between_was_refined(act):
    edit, few = LabelEdit((48,) * 3), large_scene(tiles=0)
    edit.show([FIRST], few)
    later = edit.paint(edit.mask & False).mask if act == "paint" else edit.show([SECOND], few).mask
    edit.paint(torch.ones(48, 48, 48, dtype=torch.bool))
    edit.undo(), edit.undo()
    refined = refine_all(edit, few)
    assert torch.equal(edit.redo().mask, later) and edit.redo().mask.all()
    edit.undo()
    assert torch.equal(edit.mask, later) and torch.equal(edit.undo().mask, refined)


def test_only_the_newest_steps_keep_what_was_coarse(monkeypatch):
    monkeypatch.setattr(history, "MAX_COARSE_STEPS", 2)
    edit, few = LabelEdit((48,) * 3), large_scene(tiles=0)
    left = []
    for prompt in (FIRST, SECOND, FIRST, SECOND):
        left.append(len(edit.coarse))
        edit.show([prompt], few)
    for count in (left[3], left[2], 0):
        edit.undo()
        assert len(edit.coarse) == count
    assert min(left[1:]) > 0


def test_one_who_is_faster_than_the_background_leaves_no_more_and_more_coarse(monkeypatch):
    """The oldest answer is finished before another one comes, and told with that."""
    monkeypatch.setattr(change, "MAX_COARSE", 1)
    edit, patient, few = LabelEdit((48,) * 3), LabelEdit((48,) * 3), large_scene(tiles=0)
    shown = edit.show([FIRST], few).mask
    patient.show([FIRST], few)
    refine_all(patient, few)
    answer, expected = edit.show([SECOND], few), patient.show([SECOND], few)
    assert torch.equal(answer.mask, expected.mask) and torch.equal(boxed(shown, answer), answer.mask)
    assert [part.told() for part in edit.coarse] == [part.told() for part in patient.coarse]


def test_what_is_refined_where_no_step_can_be_undone(monkeypatch):
    """As after all that can be: the mask of the steps before is refined."""
    monkeypatch.setattr(history, "MAX_STEPS", 1)
    edit, few = LabelEdit((48,) * 3), large_scene(tiles=0)
    coarse = edit.show([FIRST], few).mask
    edit.show([SECOND], few)
    assert torch.equal(edit.undo().mask, coarse) and edit.undoable == 0 and edit.is_coarse
    refined = refine_all(edit, few)
    assert not torch.equal(refined, coarse)
    edit.redo()
    assert torch.equal(edit.undo().mask, refined)


def test_what_steps_keep_to_refine_counts_as_memory():
    edit, few = LabelEdit((48,) * 3), large_scene(tiles=0)
    edit.show([FIRST], few)
    (one,) = edit.coarse
    edit.paint(torch.zeros(48, 48, 48, dtype=torch.bool))
    assert edit.coarse == () and edit.coarse_nbytes == one.nbytes
    edit.undo()
    assert edit.coarse_nbytes == one.nbytes


@pytest.mark.parametrize("act", ["show", "undo", "undo and redo", "paint", "reset", "refine"])
def test_what_others_refined_meanwhile_is_not_taken_over(act):
    edit, few = LabelEdit((48,) * 3), large_scene(tiles=0)
    edit.show([point((22, 22, 22), (1, 1, 1))], few)
    pending = edit.pending
    finer = pending.refined(replace(few, tiles=1))
    if act == "show":
        edit.show([point((2, 2, 2), (1, 1, 1))], few)
    elif act == "paint":
        edit.paint(torch.zeros(48, 48, 48, dtype=torch.bool))
    elif act == "refine":
        edit.refine(replace(few, tiles=1))
    else:
        for step in act.split(" and "):
            getattr(edit, step)()
    mask, steps, coarse = edit.mask, edit.undoable, edit.coarse
    assert finer.changed is not None and edit.accept(pending, finer) is None
    assert edit.mask is mask and edit.undoable == steps and edit.coarse == coarse


def test_an_undo_that_changes_no_voxel_refuses_what_others_refined():
    edit, few = LabelEdit((48,) * 3), large_scene(tiles=0)
    edit.show([point((22, 22, 22), (1, 1, 1))], few)
    edit.show([point((22, 22, 22), (1, 1, 1))], replace(few, network=lambda channels: channels[:, 1:2] - 0.5))
    pending = edit.pending
    finer = pending.refined(replace(few, tiles=1))
    edit.undo()
    assert edit.accept(pending, finer) is None and len(edit.coarse) == 1


@pytest.mark.parametrize("kept", [False, True])
def test_what_was_refined_since_the_last_answer_is_no_hand_edit(kept):
    """A client sends the mask as it was told, which is not as it is by now."""
    edit, few = LabelEdit((48,) * 3), large_scene(tiles=0)
    shown = edit.show([FIRST], few).mask
    refined = refine_all(edit, few)
    edit = LabelEdit.from_bytes(edit.to_bytes()) if kept else edit
    assert not torch.equal(refined, shown) and torch.equal(edit.told, shown)
    edit.paint(shown, answered=False)
    assert torch.equal(edit.mask, refined) and edit.undoable == 1 and edit.in_force == (FIRST,)
    assert torch.equal(edit.told, shown)  # the client does not know yet
    painted = shown.clone()
    painted[0, 0, 0] ^= True
    answer = edit.paint(painted, answered=False)
    assert (edit.mask != refined).sum() == 1 and edit.mask[0, 0, 0] == painted[0, 0, 0] and edit.undoable == 2
    assert torch.equal(edit.told, painted) and edit.untold is not None
    answer = edit.bring_to([FIRST], few)
    assert torch.equal(boxed(painted, answer), edit.mask) and edit.untold is None and torch.equal(edit.told, edit.mask)
    assert torch.equal(edit.paint(shown).mask, shown)  # now it is a hand edit


def test_a_painted_mask_that_is_answered_tells_what_was_refined():
    edit, few = LabelEdit((48,) * 3), large_scene(tiles=0)
    shown = edit.show([FIRST], few).mask
    refined = refine_all(edit, few)
    answer = edit.paint(shown)
    assert torch.equal(answer.mask, refined) and torch.equal(boxed(shown, answer), refined) and edit.untold is None


def test_older_points_vanish_without_a_trace_where_nothing_was_painted():
    """The refinement of an answer goes with its point, though the mask came back from the client meanwhile."""
    edit, few = LabelEdit((48,) * 3), large_scene(tiles=0)
    shown = edit.show([FIRST], few).mask
    refine_all(edit, few)
    edit.paint(shown, answered=False)
    assert not edit.bring_to([], few).mask.any()


def test_what_a_label_begins_with_is_no_hand_edit_until_it_is_told():
    edit, case, empty = LabelEdit(SHAPE), scene(), torch.zeros(SHAPE, dtype=torch.bool)
    edit.begin(cube(3, 9))
    edit.paint(empty, answered=False)
    assert torch.equal(edit.mask, cube(3, 9)) and torch.equal(edit.told, empty)
    assert torch.equal(boxed(empty, edit.bring_to([], case)), cube(3, 9))
    edit.begin(cube(5, 12))
    edit.paint(cube(3, 9), answered=False)
    assert torch.equal(edit.mask, cube(5, 12))
    edit.bring_to([], case)
    assert not edit.paint(empty, answered=False).mask.any()


def test_what_the_user_drew_of_a_label_that_was_never_told_is_all_of_it():
    edit = LabelEdit(SHAPE)
    edit.begin(cube(3, 9))
    edit.paint(cube(5, 12), answered=False)
    assert torch.equal(edit.mask, cube(5, 12)) and edit.untold is None


# --- bytes


def test_bytes_hold_all_of_it():
    edit, case = LabelEdit(SHAPE), scene(random_network(1))
    edit.bring_to(clicks(2), case)
    edit.paint(edit.mask | cube(3, 9))
    edit.show([scribble([(3, 3, 3), (4, 4, 4)], SPACING, positive=False)], case)
    edit.show(clicks(1), case)
    edit.undo()
    kept = LabelEdit.from_bytes(edit.to_bytes())
    assert kept.to_bytes() == edit.to_bytes() and kept.prompts == edit.prompts and torch.equal(kept.mask, edit.mask)
    for one in (edit, kept):
        one.redo(), one.undo(), one.undo(), one.undo()  # noqa: B018
    assert torch.equal(kept.mask, edit.mask) and kept.prompts == edit.prompts == tuple(clicks(2))


@pytest.mark.parametrize("grows", [None, True])
def test_bytes_hold_what_is_coarse(grows):
    edit, few = LabelEdit((48,) * 3), large_scene(tiles=0)
    taken = torch.zeros(48, 48, 48, dtype=torch.bool)
    taken[:, :, 36:] = True
    if grows:
        painted = torch.zeros_like(taken)
        painted[20:22, 20:22, 20:22] = True
        edit.paint(painted)
    edit.show([FIRST], replace(few, taken=taken))
    coarse, content = edit.mask, edit.to_bytes()
    kept = LabelEdit.from_bytes(content)
    assert kept.to_bytes() == content and {one.grows for one in kept.coarse} == {grows}
    assert torch.equal(refine_all(kept, few), refine_all(edit, few)) and not torch.equal(kept.mask, coarse)
    assert kept.to_bytes() == edit.to_bytes()


def test_bytes_of_the_first_format():
    """They tell nothing of locks: the answers in them hold as long as they take nothing that is locked."""
    edit, case = LabelEdit(SHAPE), scene()
    for count in range(1, 4):
        edit.bring_to(clicks(count), case)
    edit.undo()
    content = edit.to_bytes()
    start = 12 + int.from_bytes(content[4:12], "little")
    header = json.loads(content[12:start])
    assert header["sizes"][4::3] == [0] * 4 and header["sizes"][-3:] == [0] * 3  # no limits; nothing is to be told
    steps, sizes = header["steps"][:-1], without_limits(header["sizes"])[:-2]
    header |= {"format": 1, "untold": None, "steps": [step[:3] for step in steps], "sizes": sizes}
    del header["forgotten"], header["undone"]
    text = json.dumps(header).encode()
    earlier = len(text).to_bytes(8, "little") + text + content[start:]
    kept = LabelEdit.from_bytes(zlib.crc32(earlier).to_bytes(4, "little") + earlier)
    assert kept.to_bytes() == content and (kept.undoable, kept.redoable, kept.steps) == (2, 1, 2)
    assert not kept.bring_to(clicks(3), replace(case, taken=cube(20, 22), locks="liver")).forwards


def test_bytes_of_the_second_format():
    """Of what is to be told they hold the box alone: which voxels it is nobody knows, and all of it is told."""
    edit, few = LabelEdit((48,) * 3), large_scene(tiles=0)
    shown = edit.show([FIRST], few).mask
    refined, box = refine_all(edit, few), edit.untold.box
    content = edit.to_bytes()
    start = 12 + int.from_bytes(content[4:12], "little")
    header = json.loads(content[12:start])
    end = len(content) - sum(header["sizes"][-3:])
    header |= {"format": 2, "untold": header["steps"].pop()[2], "sizes": without_limits(header["sizes"])[:-2]}
    text = json.dumps(header).encode()
    earlier = len(text).to_bytes(8, "little") + text + content[start:end]
    kept = LabelEdit.from_bytes(zlib.crc32(earlier).to_bytes(4, "little") + earlier)
    assert torch.equal(kept.mask, refined) and torch.equal(kept.told, refined) and kept.untold is not None
    kept = LabelEdit.from_bytes(kept.to_bytes())
    answer = kept.bring_to([FIRST], few)
    assert answer.changed == box and torch.equal(boxed(shown, answer), refined)


def test_bytes_of_the_fourth_format():
    """They tell nothing of limits that hold for single answers."""
    edit, few = LabelEdit((48,) * 3), large_scene(tiles=0)
    edit.show([FIRST], few)
    content = edit.to_bytes()
    start = 12 + int.from_bytes(content[4:12], "little")
    header = json.loads(content[12:start])
    coarse = sum(len(one.blobs) for one in edit.coarse)
    sizes = without_limits(header["sizes"][:-coarse]) + header["sizes"][-coarse:]
    del header["earlier"]
    text = json.dumps(header | {"format": 4, "sizes": sizes}).encode()
    earlier = len(text).to_bytes(8, "little") + text + content[start:]
    kept = LabelEdit.from_bytes(zlib.crc32(earlier).to_bytes(4, "little") + earlier)
    assert edit.is_coarse and kept.to_bytes() == content and kept.prompts == (FIRST,)


def without_limits(sizes):
    """Of the parts of bytes, which have three for each step, but nothing that is coarse; of an earlier format two."""
    return [size for number, size in enumerate(sizes) if number < 2 or (number - 2) % 3 < 2]


@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: c[:40], lambda c: b"", lambda c: c[:-5] + b"wrong",
                                    lambda c: c[4:]])  # fmt: skip
def test_damaged_bytes_are_refused(change):
    edit = LabelEdit(SHAPE)
    edit.show(clicks(1), scene())
    with pytest.raises(ValueError, match=r"0001\.label"):
        LabelEdit.from_bytes(change(edit.to_bytes()), "0001.label")


def test_twenty_steps_of_a_large_organ_are_few_bytes():
    edit = LabelEdit((128, 128, 100))
    for size in range(20, 83, 3):
        mask = torch.zeros(128, 128, 100, dtype=torch.bool)
        mask[30 : 30 + size, 30 : 30 + size, 10 : 10 + size] = True
        edit.paint(mask)
    assert edit.undoable == 21 and len(edit.to_bytes()) < 100_000


def test_remembered_answers_cost_little():
    edit = LabelEdit((256, 256, 150))
    big = Scene(everything, torch.zeros(256, 256, 150), (1, 1, 1), size=16, tiles=0)
    edit.bring_to([point((9, 9, 9), (1, 1, 1))], big)
    start = time.process_time()
    edit.bring_to([point((9, 9, 9), (1, 1, 1))], big)
    assert time.process_time() - start < 0.02


def test_newer_bytes_are_refused(monkeypatch):
    content = LabelEdit(SHAPE).to_bytes()
    monkeypatch.setattr(stored_label, "FORMAT", 0)
    with pytest.raises(ValueError, match=r"0001\.label: the format is 5"):
        LabelEdit.from_bytes(content, "0001.label")
