"""The network that answers prompts, for whoever has the turn."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from monai.bundle import ConfigParser
from monailabel.utils.others.generic import name_to_device
from torch import nn

from monailabel_app.bundles import Bundle
from monailabel_app.errors import RequestError
from monailabel_app.models import contract
from monailabel_app.models.inference import InTurns, OtherWeights
from monailabel_app.models.networks import Networks, serving_stamp
from monailabel_app.models.turn import Priority, Turn
from rep3d.console.typed import as_text
from rep3d.interactive.cubes import cube_edge
from rep3d.interactive.scene import Network

logger = logging.getLogger(__name__)


class PromptedNetwork:
    """The network of a bundle that takes prompts.

    Args:
        bundle: whose it is; it needs no weights yet. None: there is no such bundle.
        turn: which all networks of a server share.

    Raises:
        ValueError: the bundle lacks what the app needs, see `contract.check_contract`, or its windows are no cubes.
    """

    def __init__(self, bundle: Bundle | None, turn: Turn) -> None:
        self.bundle = bundle
        self._turn = turn
        if bundle is not None:
            contract.check_contract(bundle, contract.PROMPTED_IDS)
            self._config = _Config(bundle)
            self._networks = Networks(bundle)

    @property
    def size(self) -> int:
        """Of the working grid, voxels along each axis."""
        return self._current_config().size

    def is_valid(self) -> bool:
        """Whether it has weights."""
        return self.bundle is not None and self.bundle.weights.is_file()

    def served(self) -> Bundle | None:
        """The bundle, where it has weights."""
        return self.bundle if self.is_valid() else None

    @property
    def licence(self) -> str:
        """Of the weights, in words."""
        return self.bundle.licence if self.bundle is not None else ""

    def check(self) -> None:
        """Raise RequestError, 404, where nothing can answer prompts."""
        if self.bundle is None:
            raise RequestError(404, "there is no bundle that follows prompts among the server's bundles")
        if not self.is_valid():
            raise RequestError(404, f"model {self.bundle.name!r} has no weights yet: train it first")

    @contextmanager
    def answering(self, priority: Priority = Priority.CLICK) -> Iterator[Network]:
        """The network, (B, 5, D, H, W) -> (B, 1, D, H, W), while the context lasts; each call waits for a turn.

        Raises:
            RequestError: as `check`; 503, the GPU's memory does not suffice; or OtherWeights.
        """
        self.check()
        config, networks = self._current_config(), self._networks
        with self._turn.line(priority) as my_turn, _told_of_little_memory():
            network = InTurns(networks.on(config), my_turn)
            if networks.stamp() != config.stamp:
                raise OtherWeights(config.name)

            def answer(channels: torch.Tensor) -> torch.Tensor:
                with torch.inference_mode():
                    logits = config.inferer(channels.to(config.device), network)
                return logits.clone()  # a tensor as others are

            yield answer

    def _current_config(self) -> _Config:
        """Read again where other weights serve, which may have been trained otherwise."""
        assert self.bundle is not None
        if self._config.stamp != serving_stamp(self.bundle):
            self._config = _Config(self.bundle)
        return self._config


@contextmanager
def _told_of_little_memory() -> Iterator[None]:
    """Nothing of a click is kept then, so that it may be tried again."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        logger.warning("out of GPU memory for a click")
        raise RequestError(
            503, "the GPU's memory does not suffice for this just now: nothing has changed, try again later"
        ) from error


class _Config:
    """A bundle's `inference.json`, as far as prompts need it."""

    def __init__(self, bundle: Bundle) -> None:
        self.name, self.stamp = bundle.name, serving_stamp(bundle)  # the stamp before the settings are read
        parser = ConfigParser()
        parser.read_config(str(bundle.config("inference")))
        root = as_text(str(bundle.root))
        parser.update({**bundle.settings, contract.BUNDLE_ROOT: root, contract.DEVICE: name_to_device("")})
        self._get = parser.get_parsed_content
        self.device = torch.device(self._get(contract.DEVICE))
        self.inferer = self._get(contract.INFERER)
        self.size = cube_edge(self._get(contract.PATCH_SIZE))

    def network(self) -> nn.Module:
        return self._get(contract.NETWORK)
