"""DeepEdit (arXiv 2203.12362) to compare with: MONAI's transforms for its clicks, and a U-Net that sees whole scans.

It has a channel of clicks for the label and one for the background, and no previous mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.apps.deepedit.transforms import AddGuidanceSignalDeepEditd
from monai.networks.nets import UNet
from monai.transforms import NormalizeIntensity, Resize
from torch import nn

from rep3d.evaluation.click_cases import Case, Labels
from rep3d.format_number import check_format
from rep3d.interactive.grid import Grid
from rep3d.interactive.prompts import Prompt
from rep3d.networks.weights import check_finite

NAMES = {"background": 0, "label": 1}  # in the order of the channels
SIZE = (48, 64, 48)  # voxels to which every scan is resized
FORMAT = 1  # of the file of weights


class DeepEdit(NamedTuple):
    """A trained network.

    Attributes:
        network: (B, 3, *size) -> logits (B, 2, *size).
        size: voxels to which it resizes a scan.
        ids: of the data set's labels, which are one to it.
    """

    network: nn.Module
    size: tuple[int, int, int]
    ids: tuple[int, ...]


def make_network() -> nn.Module:
    """A U-Net of 4.8 million parameters."""
    return UNet(
        spatial_dims=3,
        in_channels=1 + len(NAMES),
        out_channels=len(NAMES),
        channels=(16, 32, 64, 128, 256),
        strides=(2, 2, 2, 2),
        num_res_units=2,
        norm="instance",
    )


def load(path: Path, device: torch.device) -> DeepEdit:
    """A network that `scripts/train_deepedit.py` trained.

    Raises:
        FileNotFoundError, ValueError: the file is not there, or not of such a training.
    """
    content = read_checkpoint(path)
    network = make_network()
    network.load_state_dict(content["network"])
    return DeepEdit(network.to(device).eval(), tuple(content["size"]), tuple(content["ids"]))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a training left.

    Raises:
        FileNotFoundError, ValueError: as `load`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, expected weights of scripts/train_deepedit.py")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: no PyTorch checkpoint ({error})") from error
    if not isinstance(content, dict) or not {"network", "size", "ids"} <= set(content):
        raise ValueError(f"{path}: expected weights of scripts/train_deepedit.py")
    check_format(content.get("format", 1), FORMAT, path)
    check_finite(content["network"], path)
    return content


def prepare(image: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """A scan as the network sees it: (D, H, W) -> (1, *size), with mean 0 and standard deviation 1."""
    normalized = torch.as_tensor(NormalizeIntensity()(image[None]))
    return torch.as_tensor(Resize(size, mode="area")(normalized))


class DeepEditSegment:
    """`rep3d.evaluation.clicks.Segment` of a trained DeepEdit; of scribbles, it takes every position as a click.

    Its start, without clicks, is `start`.
    """

    def __init__(self, trained: DeepEdit) -> None:
        self.trained = trained
        self.add_signal = AddGuidanceSignalDeepEditd(keys="image")

    def __call__(
        self, image: torch.Tensor, spacing: Sequence[float], prompts: Sequence[Prompt], previous: torch.Tensor
    ) -> torch.Tensor:
        scan = Grid.of_scan(image.shape, spacing)
        clicks: dict[str, list[list[int]]] = {name: [] for name in NAMES}
        for prompt in prompts:
            if prompt.kind not in ("point", "scribble"):
                raise ValueError(f"DeepEdit takes points and scribbles, got a {prompt.kind}")
            for position in prompt.positions:
                voxel = scan.voxel(position)
                resized = [int(v * n / m) for v, n, m in zip(voxel, self.trained.size, scan.shape, strict=True)]
                clicks["label" if prompt.positive else "background"].append(resized)
        return self._answer(image, clicks)

    def start(self, case: Case, labels: Labels) -> dict[str, torch.Tensor]:
        """Its answers without clicks.

        Raises:
            ValueError: it was trained for other labels.
        """
        for label, ids in labels.items():
            if tuple(ids) != self.trained.ids:
                raise ValueError(f"DeepEdit was trained for the ids {self.trained.ids}, not for {label}, {tuple(ids)}")
        mask = self._answer(case.image, {name: [] for name in NAMES})
        return dict.fromkeys(labels, mask)

    def _answer(self, image: torch.Tensor, clicks: dict[str, list[list[int]]]) -> torch.Tensor:
        data: Any = {"image": prepare(image, self.trained.size), "guidance": clicks}
        channels = self.add_signal(data)["image"]
        device = next(self.trained.network.parameters()).device
        with torch.inference_mode():
            logits = self.trained.network(torch.as_tensor(channels)[None].to(device)).float().cpu()
        difference = (logits[:, 1] - logits[:, 0])[None]
        return nn.functional.interpolate(difference, image.shape, mode="trilinear")[0, 0] > 0
