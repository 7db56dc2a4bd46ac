"""What a correction promises, whatever the network answers."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from rep3d.interactive.correction import correct, refine
from rep3d.interactive.grid import Grid, covered, resample
from rep3d.interactive.prompts import box, lasso, point, radius, scribble
from rep3d.interactive.scene import Scene
from rep3d.interactive.working_grid import finest_spacing

SIZE = 16
SPACINGS = [(1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (2.5, 1.0, 1.5)]
SEEDS = range(24)


def random_network(seed):
    """Answers that depend on all channels and are of no use."""
    generator = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(1, 5, 5, 5, 5, generator=generator), 4 * torch.randn(1, generator=generator)
    return lambda channels: F.avg_pool3d(F.conv3d(channels, weight, bias, padding=2), 3, 1, 1)


def alike(channels):
    """What looks like what is shown."""
    return 0.8 - channels[:, :1].abs()


def marked(channels):
    """The previous mask, with the balls of positive prompts and without those of negative ones."""
    return channels[:, 1:2] + channels[:, 2:3] - 2 * (channels[:, 3:4] - 0.5).clamp(min=0) - 0.52


def everything(channels):
    return torch.ones_like(channels[:, :1])


def random_case(seed):
    """A scan smaller or larger than the working grid, a mask, locked voxels and prompts of all kinds."""
    rng = np.random.default_rng(seed)
    shape, spacing = tuple(int(n) for n in rng.integers(5, 34, 3)), SPACINGS[seed % len(SPACINGS)]
    image, blobs, locks = (ndimage.gaussian_filter(rng.normal(size=shape), 2) for _ in range(3))
    voxel = lambda: [int(rng.integers(n)) for n in shape]  # noqa: E731
    prompts = []
    for _ in range(rng.integers(1, 7)):
        positive = bool(rng.random() < 0.6)
        kind = rng.choice(["point", "point", "scribble", "box", "lasso"])
        if kind == "point":
            prompts.append(point(voxel(), spacing, positive))
        elif kind == "scribble":
            prompts.append(scribble([voxel() for _ in range(4)], spacing, positive))
        elif kind == "box":
            prompts.append(box(voxel(), voxel(), spacing, positive))
        else:
            corners = [voxel() for _ in range(5)]
            prompts.append(lasso([[i, j, corners[0][2]] for i, j, _ in corners], spacing, positive))
    masks = {
        "previous": torch.from_numpy(blobs > np.quantile(blobs, 0.8)),
        "taken": torch.from_numpy(locks > np.quantile(locks, 0.9)) if seed % 2 else None,
    }
    return torch.from_numpy(image * 1000).to(torch.int16), spacing, prompts, masks


def is_contradicted(prompts, number, position, scan):
    return any(
        math.dist(position, other) <= radius(finest_spacing(scan, SIZE)) or scan.voxel(position) == scan.voxel(other)
        for later in prompts[number + 1 :]
        if later.positive != prompts[number].positive and later.kind in ("point", "scribble")
        for other in later.positions
    )


def clicked(prompts, scan):
    """The voxels of points and scribbles."""
    mask = torch.zeros(scan.shape, dtype=torch.bool)
    for prompt in prompts:
        for position in prompt.positions if prompt.kind in ("point", "scribble") else ():
            mask[scan.voxel(position)] = True
    return mask


@pytest.mark.parametrize("tiles", [0, 4])
@pytest.mark.parametrize("seed", SEEDS)
def test_promises_hold_for_any_weights(seed, tiles):
    image, spacing, prompts, masks = random_case(seed)
    scan, previous = Grid.of_scan(image.shape, spacing), masks["previous"]
    taken = torch.zeros_like(previous) if masks["taken"] is None else masks["taken"]
    before = previous.clone()
    scene = Scene(random_network(seed), image, spacing, masks["taken"], SIZE, tiles)
    answer = correct(scene, prompts, new=1, previous=previous)
    assert torch.equal(previous, before), "what was given stays as it was"
    for number, prompt in enumerate(prompts):
        for position in prompt.positions if prompt.kind in ("point", "scribble") else ():
            voxel = scan.voxel(position)
            if prompt.positive and taken[voxel]:
                assert prompt in answer.locked
            elif not is_contradicted(prompts, number, position, scan):
                assert answer.mask[voxel] == prompt.positive
    assert not (answer.mask & taken & ~previous).any(), "locked voxels do not join"
    differs = answer.mask != previous
    wrong_way = previous if prompts[-1].positive else ~previous
    assert not (differs & wrong_way & ~clicked(prompts, scan)).any(), "it only adds, or only takes away"
    reached = resample(answer.region, answer.grid, scan) > 0
    if tiles:
        reached = torch.from_numpy(ndimage.binary_dilation(reached.numpy(), np.ones((3, 3, 3))))
    assert not (differs & ~reached & ~clicked(prompts, scan)).any(), "all else stays"
    if answer.changed is None:
        assert not differs.any()
    else:
        places = differs.nonzero()
        assert answer.changed == tuple(
            slice(int(low), int(high) + 1) for low, high in zip(places.amin(0), places.amax(0), strict=True)
        )


@pytest.mark.parametrize("seed", SEEDS)
def test_the_reached_region_touches_the_newest_prompt(seed):
    """Each connected part of it comes within 16 voxels of the first grid, on the grid of the answer."""
    image, spacing, prompts, masks = random_case(seed)
    scene = Scene(random_network(seed), image, spacing, masks["taken"], SIZE, tiles=0)
    answer = correct(scene, prompts, previous=masks["previous"])
    parts, count = ndimage.label(answer.region.numpy(), np.ones((3, 3, 3)))
    low, high = prompts[-1].bounds
    margin = 16 * max(finest_spacing(Grid.of_scan(image.shape, spacing), SIZE),
                      max(h - lo for lo, h in zip(low, high, strict=True)) * 4 / 3 / SIZE)  # fmt: skip
    for part in range(1, count + 1):
        places = torch.from_numpy(np.argwhere(parts == part)) * answer.grid.spacing[0] + torch.tensor(
            answer.grid.origin
        )
        within = ((places >= torch.tensor(low) - margin - 1e-6) & (places <= torch.tensor(high) + margin + 1e-6)).all(1)
        assert within.any()


def test_the_later_of_two_contrary_clicks_wins():
    image, first, second = torch.zeros(20, 20, 20), point((9, 9, 9), (1, 1, 1)), point((10, 9, 9), (1, 1, 1), False)
    for prompts in ([first, second], [second, first]):
        mask = correct(Scene(random_network(3), image, (1, 1, 1), size=SIZE), prompts).mask
        assert mask[scan_voxel(prompts[1])] == prompts[1].positive
    far = point((16, 9, 9), (1, 1, 1), False)
    mask = correct(Scene(everything, image, (1, 1, 1), size=SIZE), [first, far]).mask
    assert mask[9, 9, 9] and not mask[16, 9, 9]


def scan_voxel(prompt):
    return tuple(round(v) for v in prompt.positions[0])


def test_a_lock_wins_over_a_click_and_is_told():
    taken = torch.zeros(20, 20, 20, dtype=torch.bool)
    taken[8:] = True
    locked, free = point((12, 9, 9), (1, 1, 1)), point((4, 9, 9), (1, 1, 1))
    scene = Scene(everything, torch.zeros(20, 20, 20), (1, 1, 1), taken, SIZE)
    answer = correct(scene, [locked, free], new=2)
    assert answer.locked == (locked,)
    assert not (answer.mask & taken).any() and answer.mask[4, 9, 9]


def test_what_was_added_stays_when_a_click_elsewhere_follows():
    image, spacing = torch.zeros(60, 40, 40), (1.0, 1.0, 1.0)
    prompts = [point((8, 8, 8), spacing)]
    first = correct(Scene(marked, image, spacing, size=SIZE), prompts)
    assert 1 < int(first.mask.sum()) < 200
    for place, positive in (((50, 30, 30), True), ((48, 8, 8), False)):
        prompts.append(point(place, spacing, positive))
        answer = correct(Scene(marked, image, spacing, size=SIZE), prompts, previous=first.mask)
        assert (answer.mask & first.mask).equal(first.mask)
    far = correct(Scene(random_network(1), image, spacing, size=SIZE, tiles=0), prompts[:2], previous=first.mask)
    reached = resample(far.region, far.grid, Grid.of_scan(image.shape, spacing)) > 0
    assert torch.equal(far.mask[~reached & first.mask], first.mask[~reached & first.mask])


@pytest.mark.parametrize(("shape", "spacing"), [((90, 12, 12), (1, 1, 1)), ((20, 60, 9), (1.0, 0.7, 4.0))])
def test_it_grows_to_the_whole_scan(shape, spacing):
    seen = []

    def network(channels):
        seen.append(1)
        return everything(channels)

    answer = correct(Scene(network, torch.zeros(shape), spacing, size=SIZE, tiles=0), [point((3, 5, 5), spacing)])
    assert answer.mask.all() and len(seen) > 2
    assert covered(answer.grid, Grid.of_scan(shape, spacing)).all()
    assert answer.grid.spacing[0] == pytest.approx(max(n * s for n, s in zip(shape, spacing, strict=True)) / SIZE)


def ball(shape, spacing, centre, millimetres):
    places = torch.stack(torch.meshgrid(*(torch.arange(n) * s for n, s in zip(shape, spacing, strict=True)),
                                        indexing="ij"))  # fmt: skip
    middle = torch.tensor([c * s for c, s in zip(centre, spacing, strict=True)]).view(3, 1, 1, 1)
    return (places - middle).norm(dim=0) <= millimetres


def dice(a, b):
    return 2 * int((a & b).sum()) / (int(a.sum()) + int(b.sum()))


@pytest.mark.parametrize(
    ("shape", "spacing", "centre"),
    [((30, 30, 30), (1.0, 1.0, 1.0), (14, 15, 13)), ((48, 48, 9), (0.7, 0.7, 4.0), (22, 25, 4)),
     ((10, 9, 11), (2.0, 2.0, 2.0), (5, 4, 5)), ((100, 70, 60), (1.0, 1.0, 1.0), (40, 30, 30))],
)  # fmt: skip
def test_a_ball_is_found(shape, spacing, centre):
    """In scans that are smaller than the working grid, anisotropic, or so large that it begins at a part."""
    truth = ball(shape, spacing, centre, 7.0)
    image = torch.where(truth, 900, 100).to(torch.int16)
    click = [point(centre, spacing)]
    answer = correct(Scene(alike, image, spacing, size=32), click)
    assert dice(answer.mask, truth) > 0.93
    assert torch.equal(answer.mask, correct(Scene(alike, image.double(), spacing, size=32), click).mask)


def test_tiles_redraw_what_changed_and_nothing_else():
    shape, spacing, centre = (80, 80, 80), (1.0, 1.0, 1.0), (40, 42, 38)
    truth, scan = ball(shape, spacing, centre, 28.0), Grid.of_scan(shape, spacing)
    image, prompts = torch.where(truth, 900, 100).to(torch.int16), [point(centre, spacing)]
    coarse = correct(Scene(alike, image, spacing, size=32, tiles=0), prompts)
    border = torch.from_numpy(ndimage.binary_dilation(truth.numpy(), iterations=3)
                              & ~ndimage.binary_erosion(truth.numpy(), iterations=3))  # fmt: skip
    assert coarse.grid.spacing[0] > 1 and len(coarse.tiles) > 4
    for tile in coarse.tiles:
        assert tile.spacing == spacing and border[covered(tile, scan)].any()
    answer, left = coarse, len(coarse.tiles)
    while answer.tiles:
        answer = refine(Scene(alike, image, spacing, tiles=3), answer, prompts)
        assert len(answer.tiles) == max(left - 3, 0)
        left = len(answer.tiles)
    assert dice(answer.mask, truth) > max(0.98, dice(coarse.mask, truth))
    at_once = correct(Scene(alike, image, spacing, size=32, tiles=10_000), prompts)
    assert at_once.tiles == () and torch.equal(at_once.mask, answer.mask)


def test_nothing_changed_leaves_no_tiles():
    previous = torch.zeros(80, 80, 80, dtype=torch.bool)
    previous[20:60, 20:60, 20:60] = True
    keep = lambda channels: channels[:, 1:2] - 0.5  # noqa: E731
    scene = Scene(keep, torch.zeros(80, 80, 80), (1, 1, 1), size=32)
    answer = correct(scene, [point((40, 40, 40), (1, 1, 1))], previous=previous)
    assert answer.tiles == () and answer.changed is None and torch.equal(answer.mask, previous)


def test_several_new_prompts_are_answered_together():
    spacing, places = (1.0, 1.0, 1.0), [(4, 4, 4), (30, 30, 30)]
    prompts = [point(place, spacing) for place in places]
    answer = correct(Scene(marked, torch.zeros(36, 36, 36), spacing, size=SIZE), prompts, new=2)
    assert all(answer.mask[place] for place in places)
    assert all(answer.mask[place[0] + 1, place[1], place[2]] for place in places)


SCAN = torch.zeros(12, 10, 8)
INSIDE = point((5, 5, 5), (1, 1, 1))


@pytest.mark.parametrize(
    ("prompts", "of_scene", "options", "said"),
    [
        ([point((12, 5, 5), (1, 1, 1))], {}, {}, r"prompt 1, a point at voxel \(12, 5, 5\), lies outside"),
        ([INSIDE, point((5, -1, 5), (1, 1, 1))], {}, {}, "prompt 2, a point"),
        ([scribble([(1, 1, 1), (1, 1, 9)], (1, 1, 1))], {}, {}, "prompt 1, a scribble"),
        ([box((20, 1, 1), (25, 3, 3), (1, 1, 1))], {}, {}, "prompt 1, a box"),
        ([], {}, {}, "new must be 1 to the number of prompts"),
        ([INSIDE], {}, {"new": 2}, "new must be 1 to the number of prompts"),
        ([INSIDE], {}, {"new": 0}, "new must be 1 to the number of prompts"),
        ([INSIDE], {"tiles": -1}, {}, "tiles must be 0 or more, got -1"),
        ([INSIDE], {}, {"previous": torch.zeros(12, 10, 9) > 0}, "previous must be of bool and of the image"),
        ([INSIDE], {"taken": torch.zeros(12, 10, 8)}, {}, "taken must be of bool and of the image"),
    ],
)
def test_what_is_refused(prompts, of_scene, options, said):
    with pytest.raises(ValueError, match=said):
        correct(Scene(everything, SCAN, (1, 1, 1), size=SIZE, **of_scene), prompts, **options)


def test_a_box_may_reach_out_of_the_scan():
    answer = correct(Scene(everything, SCAN, (1, 1, 1), size=SIZE), [box((8, 5, 3), (30, 30, 30), (1, 1, 1))])
    assert answer.mask.all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_answer_that_is_not_finite(value):
    broken = lambda channels: torch.full_like(channels[:, :1], value)  # noqa: E731
    with pytest.raises(ValueError, match="NaN or infinite"):
        correct(Scene(broken, SCAN, (1, 1, 1), size=SIZE), [INSIDE])


def test_every_voxel_can_be_clicked():
    """Corners and borders too, in a scan of one slice."""
    image = torch.zeros(3, 4, 1)
    for voxel in itertools.product(range(3), range(4), range(1)):
        for positive in (True, False):
            answer = correct(Scene(random_network(5), image, (1, 2, 3), size=SIZE), [point(voxel, (1, 2, 3), positive)])
            assert answer.mask[voxel] == positive


def test_how_near_a_later_click_must_lie_goes_with_the_grid():
    """Balls of 3 mm on a grid of 64 voxels, of 6 mm, two voxels, on one of 16."""
    image, spacing = torch.zeros(20, 20, 20), (3.0, 3.0, 3.0)
    prompts = [point((9, 9, 9), spacing), point((11, 9, 9), spacing, False)]
    nothing = lambda channels: -torch.ones_like(channels[:, :1])  # noqa: E731
    kept = {size: bool(correct(Scene(nothing, image, spacing, size=size), prompts).mask[9, 9, 9]) for size in (16, 64)}
    assert kept == {16: False, 64: True}


def test_contrary_clicks_in_one_thick_voxel():
    """The later one wins although the ball of the first does not reach it."""
    image, spacing = torch.zeros(40, 40, 6), (0.7, 0.7, 9.0)
    places = [(20, 20, 2.6), (20, 20, 3.4)]
    for first, last in (places, places[::-1]):
        for positive in (True, False):
            prompts = [point(first, spacing, not positive), point(last, spacing, positive)]
            answer = correct(Scene(random_network(4), image, spacing, size=32), prompts, new=2)
            assert bool(answer.mask[20, 20, 3]) == positive


@pytest.mark.parametrize("tiles", [0, 3])
def test_only_what_changed_is_answered(tiles):
    """And it is the same, whether a caller has put it into the mask by now or not."""
    shape, spacing, centre = (80, 70, 60), (1.0, 1.0, 1.0), (40, 35, 30)
    image = torch.where(ball(shape, spacing, centre, 24.0), 900, 100).to(torch.int16)
    previous, prompts = ball(shape, spacing, (70, 60, 50), 4.0), [point(centre, spacing)]
    answer = correct(Scene(alike, image, spacing, size=32, tiles=tiles), prompts, previous=previous)
    assert answer.before is previous and answer.part.shape == answer.mask[answer.changed].shape
    whole = answer.mask.clone()
    assert torch.equal(whole[answer.changed], answer.part) and math.prod(answer.part.shape) < previous.numel() / 2
    finer = refine(Scene(alike, image, spacing, tiles=2), answer, prompts)
    expected = finer.mask.clone()
    previous[answer.changed] = answer.part
    assert torch.equal(previous, whole)
    finer = refine(Scene(alike, image, spacing, tiles=2), answer, prompts)
    assert torch.equal(finer.mask, expected) and not torch.equal(expected, whole)
    previous[finer.changed] = finer.part
    assert torch.equal(previous, expected)


@pytest.mark.parametrize(("signs", "both"), [((True, False), True), ((True, True), False), ((False, False), False)])
def test_prompts_of_both_signs_may_add_and_take_away(signs, both):
    shape, unit = (24, 24, 24), (1.0, 1.0, 1.0)
    previous = ball(shape, unit, (12, 12, 12), 6.0)
    inverted = lambda channels: 0.5 - channels[:, 1:2]  # noqa: E731
    prompts = [point((12, 12, n), unit, positive) for n, positive in zip((3, 20), signs, strict=True)]
    scene = Scene(inverted, torch.zeros(shape), unit, size=32)
    changed = correct(scene, prompts, new=2, previous=previous).mask != previous
    assert [bool((changed & one).any()) for one in (~previous, previous)] == [both or signs[0], both or not signs[0]]


@pytest.mark.parametrize("grows", [True, False])
def test_refining_goes_the_same_way_and_leaves_what_came_later(grows):
    """Cubes that find the contrary of the coarse answer, where a later answer has changed some voxels at the border."""
    image, unit, previous = torch.zeros(90, 12, 12), (1.0, 1.0, 1.0), torch.zeros(90, 12, 12, dtype=torch.bool)
    previous[:40] = True
    halves = torch.ones(1, 1, SIZE, SIZE, SIZE)
    halves[:, :, :, SIZE // 2 :] = -1
    click = [point((41, 3, 6) if grows else (38, 9, 6), unit, grows)]
    answer = correct(Scene(lambda channels: halves, image, unit, size=SIZE, tiles=0), click, previous=previous)
    assert answer.tiles and bool(answer.mask[89].any()) == grows and bool(answer.mask[0].all()) == grows
    later, changed = answer.mask.clone(), torch.zeros_like(previous)
    changed[slice(37, 40) if grows else slice(40, 43), :4] = True
    later[changed] = not grows
    contrary = lambda channels: everything(channels) * (-1 if grows else 1)  # noqa: E731
    finer = refine(Scene(contrary, image, unit, tiles=1000), replace(answer, before=later, changed=None), click).mask
    assert (finer[changed] != grows).all(), "what came later stays"
    others = (previous if grows else ~previous) & ~changed
    assert (finer[others] == grows).all() and (finer != later).any()


def test_new_prompts_stay_on_a_grid_that_grows():
    spacing, places = (1.0, 1.0, 1.0), [(20, 15, 15), (31, 15, 15)]
    tube = lambda channels: 0.3 - channels[:, :1].abs()  # noqa: E731
    image = torch.zeros(160, 30, 30)
    image[:36, 14:17, 14:17] = 100
    prompts = [point(place, spacing) for place in places]
    answer = correct(Scene(tube, image, spacing, size=SIZE, tiles=0), prompts, new=2)
    assert answer.grid.spacing[0] > 1
    middle = answer.grid.origin[0] + answer.grid.spacing[0] * (SIZE - 1) / 2
    assert abs(middle - 25.5) < 3, "between them, as far as the scan allows"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_image_that_is_not_finite(value):
    image = torch.zeros(12, 10, 8)
    image[5, 5, 4] = value
    with pytest.raises(ValueError, match="the image is NaN or infinite near the prompts"):
        correct(Scene(everything, image, (1, 1, 1), size=SIZE), [INSIDE])


def test_hundreds_of_prompts():
    rng, spacing = np.random.default_rng(0), (1.0, 1.0, 1.0)
    prompts = [point(rng.integers(40, size=3).tolist(), spacing, bool(n % 2)) for n in range(300)]
    answer = correct(Scene(random_network(2), torch.zeros(40, 40, 40), spacing, size=SIZE), prompts, new=300)
    scan = Grid.of_scan((40, 40, 40), spacing)
    for number, prompt in enumerate(prompts):
        if not is_contradicted(prompts, number, prompt.positions[0], scan):
            assert answer.mask[scan_voxel(prompt)] == prompt.positive


@pytest.mark.parametrize(("extent", "looks"), [(12, 1), (24, 2), (40, 3), (90, 4)])
def test_an_answer_takes_three_forwards_but_where_the_grid_grows_further(extent, looks):
    """All beyond that is left for later, and leads to the same mask."""
    image, spacing, asked = torch.zeros(96, 96, 96), (1.0, 1.0, 1.0), []
    image[48 - extent // 2 : 48 + extent // 2, 40:56, 40:56] = 1

    def counted(channels):
        asked.append(1)
        return alike(channels)

    prompts = [point((48, 48, 48), spacing)]
    answer = correct(Scene(counted, image, spacing, size=32), prompts)
    assert answer.grid.spacing[0] == min(1.5 ** (looks - 1), 3) and len(asked) == (1 if looks == 1 else max(looks, 3))
    while answer.tiles:
        answer = refine(Scene(alike, image, spacing, tiles=1), answer, prompts)
    assert torch.equal(answer.mask, correct(Scene(alike, image, spacing, size=32, tiles=1000), prompts).mask)
