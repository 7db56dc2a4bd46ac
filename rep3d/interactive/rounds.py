"""A simulated user in front of the network: what turns a batch of working grids into inputs and targets."""

from __future__ import annotations

import math
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.multiprocessing
from monai.inferers import Inferer, SimpleInferer
from monai.networks.utils import eval_mode
from torch import nn

from rep3d.interactive.channels import input_channels, mirrored
from rep3d.interactive.correction import grows, one_way
from rep3d.interactive.distortion import distorted
from rep3d.interactive.grid import Grid
from rep3d.interactive.prompts import Prompt, draw
from rep3d.interactive.users import beside, correction, deepest_click, first_prompt, near_error

KEYS = ("image", "spacing", "inside", "target", "taken", "prediction")  # what `WorkingGridd` writes
# How a case starts; a prediction only where there is one. On nothing, a single click has the least to go by.
STARTS = {"nothing": 0.65, "distorted truth": 0.23, "prediction": 0.12}
# How often the network is asked 0, 1, ... times before the round that counts. Few long ones: each costs a forward pass.
CORRECTIONS = (0.45, 0.15, 0.1, 0.07, 0.06, 0.05, 0.04, 0.03, 0.03, 0.02)
AT_ONCE = (0.8, 0.13, 0.07)  # how often a round has 1, 2, 3 prompts
FORESEEN = 0.5  # of the further ones on nothing are negative, beside the truth


class SimulatedUser:
    """`prepare_batch` of a MONAI trainer or evaluator: prompts, answers and corrections, up to the last round.

    A case starts from nothing, from a distorted truth or from another network's prediction. The user gives a first
    prompt, or corrects the start; then the network answers, without gradients, and the user corrects its answer, a
    random number of times, see `CORRECTIONS`. Now and then there are several prompts at once, see `AT_ONCE`. The engine
    runs the last answer, in training with the gradient.

    Args:
        network: what answers; on several GPUs each process asks its own, for their numbers of rounds differ.
        inferer: how it is run, as in the engine.
        clicks: None: as above. A number: for validation, so many clicks of the evaluating user, from nothing, each on
            the deepest voxel of the largest error.
        workers: processes that prompt the cases of a batch side by side; 0: this one does, one case after the other.
            A GPU answers faster than one process prompts.
        starts: how often a training's case starts from "nothing", a "distorted truth", a "prediction"; None: `STARTS`.

    Raises:
        ValueError: starts that are others, or none.

    Returns (as a call):
        inputs (B, 5, D, H, W), see `rep3d.interactive.CHANNELS`, and targets, float32: the truth (B, 1, D, H, W); in
        training a second channel says where the error is that the newest prompts show, see `CorrectionLoss`. Beyond
        the scan both go on mirrored.
    """

    def __init__(
        self,
        network: nn.Module,
        inferer: Inferer | None = None,
        clicks: int | None = None,
        workers: int = 0,
        starts: Mapping[str, float] | None = None,
    ) -> None:
        self.network = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.clicks = clicks
        self.starts = _checked_starts(STARTS if starts is None else starts)
        context = torch.multiprocessing.get_context()
        self.pool = ProcessPoolExecutor(workers, context, initializer=_start_worker) if workers else None

    def __call__(
        self,
        batch: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        training = self.clicks is None
        cases = [
            _Case({key: batch[key][i] for key in KEYS}, self.starts, evaluating=not training)
            for i in range(len(batch["target"]))
        ]
        rounds = 1 + int(torch.multinomial(torch.tensor(CORRECTIONS), 1)) if self.clicks is None else self.clicks
        answers: Sequence[torch.Tensor | None] = [None] * len(cases)
        for last in [False] * (rounds - 1) + [True]:
            each = (map if self.pool is None else self.pool.map)(
                _prompted, cases, answers, [training and last] * len(cases)
            )
            prompted, inputs, near = zip(*each, strict=True)
            cases = list(prompted)
            channels = torch.stack(inputs).to(device, non_blocking=non_blocking)
            if not last:
                with eval_mode(self.network):  # as it will serve; MONAI's evaluator sets it only later
                    answers = (self.inferer(channels, self.network)[:, 0] > 0).cpu()
        targets = batch["target"].float()
        if training:
            targets = torch.cat([targets, torch.stack(near)], dim=1)
        targets = torch.stack([mirrored(target, case.inside) for target, case in zip(targets, cases, strict=True)])
        return channels, targets.to(device, non_blocking=non_blocking)


def _checked_starts(starts: Mapping[str, float]) -> dict[str, float]:
    """A share for each of `STARTS`."""
    known = isinstance(starts, Mapping) and set(starts) <= set(STARTS)
    shares = {way: starts.get(way, 0) for way in STARTS} if known else {}
    numbers = all(isinstance(share, int | float) and 0 <= share < math.inf for share in shares.values())
    if not shares or not numbers or not shares["nothing"] + shares["distorted truth"]:
        expected = f"numbers from 0 for some of {', '.join(STARTS)}, and more than 0 for one of the first two"
        raise ValueError(f"starts is {starts!r}, expected {expected}")
    return shares


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training itself ends them
    torch.set_num_threads(1)


def _prompted(
    case: _Case, answer: torch.Tensor | None, with_near_error: bool
) -> tuple[_Case, torch.Tensor, torch.Tensor | None]:
    """The case with the next prompts, the network's input, and where the error is that these prompts show."""
    if answer is None:
        case.mask = case.first_mask()
    else:  # as `correct` does
        case.mask = one_way(answer & case.inside & ~case.taken, case.mask, grows(case.mask, case.newest))
    case.prompt()
    return case, case.inputs(), case.near_error() if with_near_error else None


class _Case:
    """One label on its working grid: mask and prompts so far."""

    def __init__(self, case: Mapping[str, Any], starts: Mapping[str, float], *, evaluating: bool) -> None:
        self.image = case["image"][0].float()
        self.inside, self.target, self.taken, self.prediction = (
            case[key][0].bool() for key in ("inside", "target", "taken", "prediction")
        )
        self.grid = Grid.of_scan(self.target.shape, (float(case["spacing"]),) * 3)
        self.starts, self.evaluating = starts, evaluating
        self.rng = np.random.default_rng(int(torch.randint(2**31, ())))  # of the seed that a training sets and resumes
        self.mask = torch.zeros_like(self.target)
        self.prompts: list[Prompt] = []
        self.newest: list[Prompt] = []  # those of the last round that had any

    def first_mask(self) -> torch.Tensor:
        if self.evaluating:
            return self.mask
        ways = [way for way in self.starts if way != "prediction" or self.prediction.any()]
        chances = np.array([self.starts[way] for way in ways])
        way = self.rng.choice(ways, p=chances / chances.sum())
        if way == "prediction":
            return self.prediction
        return torch.from_numpy(distorted(self.target, self.grid.spacing, self.rng)) if way != "nothing" else self.mask

    def prompt(self) -> None:
        """Show what is wrong in the mask."""
        count = 1 if self.evaluating else 1 + int(self.rng.choice(len(AT_ONCE), p=AT_ONCE))
        on_nothing = not self.prompts and not self.mask.any()
        drawn = [self._draw(number, on_nothing) for number in range(count)]
        new = [prompt for prompt in drawn if prompt is not None]
        if new:
            self.newest = new
            self.prompts += new

    def _draw(self, number: int, on_nothing: bool) -> Prompt | None:
        """One of the round's prompts."""
        spacing, mask = self.grid.spacing, self.mask.numpy()
        if self.evaluating:
            return deepest_click(self.target, mask, spacing)
        if not on_nothing:
            return correction(self.target, mask, spacing, self.rng)
        if number and self.rng.random() < FORESEEN:
            return beside(self.target, self.inside & ~self.taken, spacing, self.rng)
        return first_prompt(self.target, spacing, self.rng)

    def inputs(self) -> torch.Tensor:
        return input_channels(self.image, self.inside, self.mask, self.prompts, self.taken, self.grid)

    def near_error(self) -> torch.Tensor:
        shown = draw(self.newest, self.grid).amax(0) > 0
        return torch.from_numpy(near_error(self.target, self.mask, self.grid.spacing, shown))[None].float()
