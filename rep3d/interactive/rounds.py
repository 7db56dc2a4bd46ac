"""A simulated user in front of the network: what turns a batch of working grids into inputs and targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from monai.inferers import Inferer, SimpleInferer
from monai.networks.utils import eval_mode
from torch import nn

from rep3d.interactive.channels import input_channels
from rep3d.interactive.grid import Grid
from rep3d.interactive.prompts import Prompt, draw
from rep3d.interactive.users import correction, deepest_click, distorted, first_prompt, near_error

STARTS = {"nothing": 0.5, "distorted truth": 0.35, "prediction": 0.15}  # a prediction only where there is one
ResultT = TypeVar("ResultT")

KEYS = ("image", "spacing", "inside", "target", "taken", "prediction")  # what `WorkingGridd` writes
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
        threads: how many cases of a batch are prompted at a time; worth more than 1 where the network runs on a GPU.

    Returns (as a call):
        inputs (B, 5, D, H, W), see `rep3d.interactive.CHANNELS`, and targets, float32: the truth (B, 1, D, H, W); in
        training a second channel says where the error is that the newest prompt shows, see `CorrectionLoss`.
    """

    def __init__(
        self, network: nn.Module, inferer: Inferer | None = None, clicks: int | None = None, threads: int = 1
    ) -> None:
        self.network = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.clicks = clicks
        self.pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def __call__(
        self,
        batch: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        cases = [
            _Case({key: batch[key][i] for key in KEYS}, evaluating=self.clicks is not None)
            for i in range(len(batch["target"]))
        ]
        rounds = self.clicks if self.clicks is not None else 1 + int(torch.multinomial(torch.tensor(CORRECTIONS), 1))
        self._each(_Case.start, cases)
        for _ in range(rounds - 1):
            inputs = torch.stack(self._each(_Case.inputs, cases))
            with eval_mode(self.network):  # as it will serve; MONAI's evaluator sets it only later
                logits = self.inferer(inputs.to(device, non_blocking=non_blocking), self.network)
            self._each(_Case.correct, cases, (logits[:, 0] > 0).cpu())
        inputs, targets = torch.stack(self._each(_Case.inputs, cases)), batch["target"].float()
        if self.clicks is None:
            near = torch.stack(self._each(_Case.near_error, cases))
            targets = torch.cat([targets, near], dim=1)
        return inputs.to(device, non_blocking=non_blocking), targets.to(device, non_blocking=non_blocking)

    def _each(self, do: Callable[..., ResultT], *arguments: Iterable[Any]) -> list[ResultT]:
        """What it gives of each case."""
        return list((map if self.pool is None else self.pool.map)(do, *arguments))


class _Case:
    """One label on its working grid: mask and prompts so far."""

    def __init__(self, case: Mapping[str, Any], *, evaluating: bool) -> None:
        self.image = case["image"][0].float()
        self.inside, self.taken, self.prediction = (case[key][0].bool() for key in ("inside", "taken", "prediction"))
        self.target = case["target"][0].bool().numpy()
        self.grid = Grid.of_scan(self.target.shape, (float(case["spacing"]),) * 3)
        self.evaluating = evaluating
        self.rng = np.random.default_rng(int(torch.randint(2**31, ())))  # of the seed that a training sets and resumes
        self.prompts: list[Prompt] = []

    def start(self) -> None:
        self.mask = torch.zeros_like(self.inside) if self.evaluating else self._first_mask()
        self._prompt(first=not self.mask.any())

    def inputs(self) -> torch.Tensor:
        return input_channels(self.image, self.inside, self.mask, self.prompts, self.taken, self.grid)

    def correct(self, answer: torch.Tensor) -> None:
        self.mask = answer & ~self.taken
        self._prompt(first=False)

    def near_error(self) -> torch.Tensor:
        shown = draw(self.prompts[-1:], self.grid).amax(0) > 0
        return torch.from_numpy(near_error(self.target, self.mask, self.grid.spacing, shown))[None].float()

    def _first_mask(self) -> torch.Tensor:
        ways = [way for way in STARTS if way != "prediction" or self.prediction.any()]
        chances = np.array([STARTS[way] for way in ways])
        way = self.rng.choice(ways, p=chances / chances.sum())
        if way == "prediction":
            return self.prediction
        if way == "distorted truth":
            return torch.from_numpy(distorted(self.target, self.grid.spacing, self.rng))
        return torch.zeros_like(self.inside)

    def _prompt(self, first: bool) -> None:
        spacing, mask = self.grid.spacing, self.mask.numpy()
        if self.evaluating:
            prompt = deepest_click(self.target, mask, spacing)
        elif first:
            prompt = first_prompt(self.target, spacing, self.rng)
        else:
            prompt = correction(self.target, mask, spacing, self.rng)
        if prompt is not None:
            self.prompts.append(prompt)
