"""A simulated user in front of the network: what turns a batch of working grids into inputs and targets."""

from __future__ import annotations

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
from rep3d.interactive.grid import Grid
from rep3d.interactive.prompts import Prompt, draw
from rep3d.interactive.users import correction, deepest_click, distorted, first_prompt, near_error

KEYS = ("image", "spacing", "inside", "target", "taken", "prediction")  # what `WorkingGridd` writes
STARTS = {"nothing": 0.5, "distorted truth": 0.35, "prediction": 0.15}  # a prediction only where there is one
CORRECTIONS = (0.4, 0.25, 0.15, 0.1, 0.1)  # how often the network is asked 0, 1, ... times before the round that counts


class SimulatedUser:
    """`prepare_batch` of a MONAI trainer or evaluator: prompts, answers and corrections, up to the last round.

    A case starts from nothing, from a distorted truth or from another network's prediction. The user gives a first
    prompt, or corrects the start; then the network answers, without gradients, and the user corrects its answer, a
    random number of times, see `CORRECTIONS`. The engine runs the last answer, in training with the gradient.

    Args:
        network: what answers; on several GPUs each process asks its own, for their numbers of rounds differ.
        inferer: how it is run, as in the engine.
        clicks: None: as above. A number: for validation, so many clicks of the evaluating user, from nothing, each on
            the deepest voxel of the largest error.
        workers: processes that prompt the cases of a batch side by side; 0: this one does, one case after the other.
            A GPU answers faster than one process prompts.

    Returns (as a call):
        inputs (B, 5, D, H, W), see `rep3d.interactive.CHANNELS`, and targets, float32: the truth (B, 1, D, H, W); in
        training a second channel says where the error is that the newest prompt shows, see `CorrectionLoss`. Beyond
        the scan both go on mirrored.
    """

    def __init__(
        self, network: nn.Module, inferer: Inferer | None = None, clicks: int | None = None, workers: int = 0
    ) -> None:
        self.network = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.clicks = clicks
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
            _Case({key: batch[key][i] for key in KEYS}, evaluating=not training) for i in range(len(batch["target"]))
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


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training itself ends them
    torch.set_num_threads(1)


def _prompted(
    case: _Case, answer: torch.Tensor | None, with_near_error: bool
) -> tuple[_Case, torch.Tensor, torch.Tensor | None]:
    """The case with one prompt more, the network's input, and where the error is that this prompt shows."""
    case.mask = case.first_mask() if answer is None else answer & ~case.taken
    case.prompt()
    return case, case.inputs(), case.near_error() if with_near_error else None


class _Case:
    """One label on its working grid: mask and prompts so far."""

    def __init__(self, case: Mapping[str, Any], *, evaluating: bool) -> None:
        self.image = case["image"][0].float()
        self.inside, self.target, self.taken, self.prediction = (
            case[key][0].bool() for key in ("inside", "target", "taken", "prediction")
        )
        self.grid = Grid.of_scan(self.target.shape, (float(case["spacing"]),) * 3)
        self.evaluating = evaluating
        self.rng = np.random.default_rng(int(torch.randint(2**31, ())))  # of the seed that a training sets and resumes
        self.mask = torch.zeros_like(self.target)
        self.prompts: list[Prompt] = []

    def first_mask(self) -> torch.Tensor:
        if self.evaluating:
            return self.mask
        ways = [way for way in STARTS if way != "prediction" or self.prediction.any()]
        chances = np.array([STARTS[way] for way in ways])
        way = self.rng.choice(ways, p=chances / chances.sum())
        if way == "prediction":
            return self.prediction
        return torch.from_numpy(distorted(self.target, self.grid.spacing, self.rng)) if way != "nothing" else self.mask

    def prompt(self) -> None:
        spacing, mask = self.grid.spacing, self.mask.numpy()
        if self.evaluating:
            prompt = deepest_click(self.target, mask, spacing)
        elif self.prompts or mask.any():
            prompt = correction(self.target, mask, spacing, self.rng)
        else:
            prompt = first_prompt(self.target, spacing, self.rng)
        if prompt is not None:
            self.prompts.append(prompt)

    def inputs(self) -> torch.Tensor:
        return input_channels(self.image, self.inside, self.mask, self.prompts, self.taken, self.grid)

    def near_error(self) -> torch.Tensor:
        shown = draw(self.prompts[-1:], self.grid).amax(0) > 0
        return torch.from_numpy(near_error(self.target, self.mask, self.grid.spacing, shown))[None].float()
