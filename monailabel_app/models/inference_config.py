"""A bundle's `inference.json`, as the app uses it: with what the training of the weights that serve was told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.bundle import ConfigParser
from monailabel.utils.others.generic import name_to_device
from torch import nn

from monailabel_app.bundles import Bundle
from monailabel_app.models import contract
from monailabel_app.models.networks import serving_stamp
from rep3d.console.typed import as_text

MAX_GRID_BYTES = 2**29  # of a scan on a bundle's grid, 512 voxels a side: a small upload must not take hours


class InferenceConfig:
    """The inference config on a device, with changes.

    Args:
        bundle: whose config it is.
        device: one of MONAI Label's names, or empty for the first of them.
        changes: values by id, see `contract`.

    Raises:
        RequestError: 409, the weights know other labels or channels than the bundle.
    """

    def __init__(self, bundle: Bundle, device: str = "", changes: Mapping[str, Any] | None = None) -> None:
        self.stamp = serving_stamp(bundle)  # before the settings: those of later weights have another one
        parser = ConfigParser()
        parser.read_config(str(bundle.config("inference")))
        contract.check_trained(bundle)
        settings = {
            **bundle.settings,
            contract.BUNDLE_ROOT: as_text(str(bundle.root)),
            contract.DEVICE: name_to_device(device),
            contract.MAX_GRID_BYTES: MAX_GRID_BYTES,
            contract.PROGRESS: False,
        }
        parser.update({**settings, **(changes or {})})
        self._get = parser.get_parsed_content

    @property
    def device(self) -> torch.device:
        """Of the network."""
        return torch.device(self._get(contract.DEVICE))

    @property
    def in_channels(self) -> int:
        return self._get(contract.IN_CHANNELS)

    @property
    def sw_batch_size(self) -> int:
        return self._get(contract.SW_BATCH_SIZE)

    @property
    def has_regions(self) -> bool:
        """Whether the network's channels are regions, by sigmoid, and no labels, by softmax."""
        return self._get(contract.CLASS_ORDER, default=None) is not None

    def window_size(self, network: Callable[..., Any], shape: Sequence[int]) -> tuple[int, ...]:
        """The edges, in voxels, of the windows that a network gets of an image of a shape."""
        return self._get(contract.WINDOWS).window_size(network, shape)

    def network(self) -> nn.Module:
        """The network in training form, without weights."""
        return self._get(contract.NETWORK)

    def preprocessing(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return self._get(contract.PREPROCESSING)

    def postprocessing(self) -> list[Callable[[dict[str, Any]], dict[str, Any]]]:
        """Takes "pred" back to the scan's grid, and refines it there."""
        return [self._get(contract.TO_NATIVE_GRID), *self._get(contract.REFINEMENT)]

    @torch.inference_mode()
    def label_map(self, image: torch.Tensor, network: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """(C, D, H, W) -> (1, D, H, W) label ids, on the CPU; the network is called with groups of windows."""
        inputs = image.unsqueeze(0).to(self._get(contract.STITCHING_DEVICE, default=self.device))
        return self._get(contract.INFERER)(inputs, network)[0].cpu()
