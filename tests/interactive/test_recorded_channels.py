"""What the network sees is what it saw when its weights were trained: recorded inputs, through every door to it.

Run as a program, this file records anew: only where weights of earlier trainings may become worthless.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from rep3d.interactive import (
    Scene,
    SimulatedUser,
    StandardizeWorkingGridd,
    WorkingGridd,
    box,
    correct,
    lasso,
    point,
    scribble,
)

RECORDED = Path(__file__).parents[1] / "fixtures/channels.npz"
SIZE, STEP = 24, 3

SCANS = {
    "equal": ((40, 36, 44), (1.0, 1.0, 1.0)),
    "thick": ((50, 47, 9), (0.7, 0.7, 5.0)),
    "small": ((13, 20, 11), (2.5, 1.0, 1.5)),
    "slice": ((30, 31, 1), (0.8, 1.1, 3.0)),
}
PROMPTS = {
    "clicks": lambda at, s: [point(at(0.5, 0.5, 0.5), s), point(at(0.7, 0.4, 0.6), s, False)],
    "strokes": lambda at, s: [
        scribble([at(0.3 + t / 50, 0.5, 0.4) for t in range(12)], s),
        scribble([at(0.2, 0.2 + t / 30, 0.8) for t in range(12)], s, False),
        point(at(0.45, 0.55, 0.5), s),
    ],
    "areas": lambda at, s: [
        box(at(0.1, 0.2, 0.3), at(0.8, 0.9, 0.7), s),
        lasso([(*at(x, y, 0)[:2], at(0, 0, 0.5)[2]) for x, y in ((0.2, 0.2), (0.7, 0.3), (0.6, 0.8), (0.3, 0.6))], s),
    ],
    "long": lambda at, s: [scribble([at(t / 1500, 0.5, 0.5) for t in range(1400)], s), point(at(0, 0, 0), s, False)],
}


class Shown(torch.nn.Module):
    """What was found before, with the positive prompts and round them."""

    def forward(self, channels: torch.Tensor) -> torch.Tensor:
        return channels[:, 1:2] + channels[:, 2:3] - 0.31


def smooth(shape, seed):
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)


def seen_by_corrections():
    """The first working grid of each scan and kind of prompts."""
    for number, (name, (shape, spacing)) in enumerate(SCANS.items()):
        image = torch.from_numpy((smooth(shape, number) * 3000).round()).to(torch.int16)
        at = lambda *shares, shape=shape: [int(f * (n - 1)) for f, n in zip(shares, shape, strict=True)]  # noqa: E731
        masks = [torch.from_numpy(smooth(shape, 10 + number) > limit) for limit in (0.05, 0.15)]
        for kind, make in PROMPTS.items():
            seen = []
            network = lambda channels, seen=seen: seen.append(channels[0]) or -torch.ones_like(channels[:, :1])  # noqa: E731
            scene = Scene(network, image, spacing, taken=masks[1], size=SIZE, tiles=0)
            correct(scene, make(at, spacing), previous=masks[0])
            yield f"{name} {kind}", seen[0]


def seen_in_training():
    for seed in range(4):
        torch.manual_seed(seed)
        labels = MetaTensor(torch.from_numpy((smooth((40, 30, 20), seed) > 0.1).astype(np.float32))[None])
        labels.affine = torch.diag(torch.tensor([1.0, 1.5, 2.0, 1.0]))
        image = MetaTensor(torch.from_numpy(smooth((40, 30, 20), 9).astype(np.float32))[None] + labels)
        sample = WorkingGridd(size=SIZE).set_random_state(seed)({"image": image, "label": labels})
        sample = StandardizeWorkingGridd("image")(sample)
        batch = {key: torch.as_tensor(value)[None] for key, value in sample.items()}
        user = SimulatedUser(Shown(), clicks=3)  # what it draws by chance may change, and the weights stay worth
        yield f"training {seed}", user(batch, "cpu")[0][0]


def seen():
    return dict([*seen_by_corrections(), *seen_in_training()])


def test_inputs_are_the_recorded_ones():
    with np.load(RECORDED) as recorded:
        now = seen()
        assert {*now, *(f"{name} sum" for name in now)} == set(recorded)
        for name, channels in now.items():
            assert channels.shape == (5, SIZE, SIZE, SIZE) and channels.dtype == torch.float32
            np.testing.assert_allclose(channels[:, ::STEP, ::STEP, ::STEP], recorded[name], atol=1e-5, err_msg=name)
            assert float(channels.double().abs().sum()) == pytest.approx(float(recorded[name + " sum"]), rel=1e-5)


if __name__ == "__main__":
    found = seen()
    sums = {f"{name} sum": channels.double().abs().sum() for name, channels in found.items()}
    np.savez_compressed(RECORDED, **{name: c[:, ::STEP, ::STEP, ::STEP] for name, c in found.items()}, **sums)
