"""A bundle's networks in memory."""

from __future__ import annotations

import threading
from typing import Protocol

import torch
from torch import nn

from monailabel_app.bundles import Bundle
from rep3d.shipped import settings_beside
from rep3d.training.checkpoints import load_deployed


class NetworkConfig(Protocol):
    """What is needed of a bundle's config."""

    @property
    def stamp(self) -> str:
        """Of the weights whose settings it was read with, see `serving_stamp`."""

    @property
    def device(self) -> torch.device:
        """Of the network."""

    def network(self) -> nn.Module:
        """The network in training form, without weights."""


def serving_stamp(bundle: Bundle) -> str:
    """Another text for other weights, for none, or for other settings that lie beside them."""
    weights = bundle.weights
    stats = [path.stat() for path in (weights, settings_beside(weights)) if path.is_file()]
    return "-".join(f"{stat.st_mtime_ns}-{stat.st_size}" for stat in stats)


class Networks:
    """The deployed network with the weights that serve, once for each device; read again when they have changed.

    Args:
        bundle: whose weights they are.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._lock = threading.Lock()
        self._known: dict[torch.device, tuple[str, nn.Module]] = {}  # with the stamp of their weights

    def stamp(self) -> str:
        """See `serving_stamp`."""
        return serving_stamp(self._bundle)

    def on(self, config: NetworkConfig) -> nn.Module:
        """The network on the config's device; kept where the config is that of the weights which serve."""
        with self._lock:
            stamp = self.stamp()
            known = self._known.get(config.device)
            if known is None or known[0] != stamp:
                known = (stamp, load_deployed(config.network(), self._bundle.weights).to(config.device))
                if config.stamp == stamp:
                    self._known[config.device] = known
            return known[1]

    def free_memory(self) -> None:
        """Let go of the networks, which the next request reads again."""
        with self._lock:
            self._known.clear()
        torch.cuda.empty_cache()
