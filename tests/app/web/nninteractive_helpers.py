"""A running server for nnInteractive's own client, with a network whose answers are easy to foresee."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import uvicorn
from bundle_helpers import free_port, small_bundle

from monailabel_app.interaction.conversation import LABEL, Conversation
from monailabel_app.interaction.leases import Leases
from monailabel_app.interaction.registry import InteractiveSessions
from monailabel_app.interaction.session import InteractiveSession
from monailabel_app.main import Rep3DApp
from monailabel_app.web.authentication import Authentication
from monailabel_app.web.connections import Connection
from monailabel_app.web.server import make_server

SHAPE, SPACING = (24, 40, 36), (2.0, 1.0, 1.2)  # as 3D Slicer sends them: slices first
FIRST, SECOND = (12, 14, 12), (12, 28, 26)  # the centres of two balls


class LookAlike:
    """Instead of a trained network: what looks like the newest positive prompt belongs to the structure, but for
    what a negative prompt covers.

    Attributes:
        forwards: how often it was asked.
        gate: it answers when this is set.
        asked: set when it is asked.
    """

    size = 32
    licence = "CC0"

    def __init__(self) -> None:
        self.forwards = 0
        self.gate, self.asked = threading.Event(), threading.Event()
        self.gate.set()

    def check(self) -> None:
        pass

    @contextmanager
    def answering(self, priority: int = 0) -> Iterator:
        yield self

    def __call__(self, channels: torch.Tensor) -> torch.Tensor:
        self.forwards += 1
        self.asked.set()
        self.gate.wait(20)
        image, _, positive, negative, _ = channels.split(1, 1)
        return 0.5 - image.abs() - 2 * (negative > positive)


class Clock:
    """Tells seconds; passing time is up to a test."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def two_balls() -> np.ndarray:
    """A scan of noise, with one ball brighter and one darker than the rest."""
    image = np.random.default_rng(0).normal(0, 2, SHAPE)
    for centre, value in ((FIRST, 100), (SECOND, -100)):
        image[ball(centre)] += value
    return image.round().astype(np.int16)


def ball(centre, radius=7.0) -> np.ndarray:
    steps = np.indices(SHAPE) - np.reshape(centre, (3, 1, 1, 1))
    return np.sqrt((np.square(steps) * np.reshape(SPACING, (3, 1, 1, 1)) ** 2).sum(0)) <= radius


def make_app(folder: Path, weights: bool = True) -> Rep3DApp:
    """With a small network for prompts that is not trained."""
    small_bundle(folder / "bundles", "kits", weights=False)
    small_bundle(folder / "bundles", "interactive", weights=weights)
    (folder / "app").mkdir()
    (folder / "studies").mkdir()
    conf = {"bundles": str(folder / "bundles"), "models": "kits"}
    return Rep3DApp(str(folder / "app"), str(folder / "studies"), conf)


class Running:
    """A server in a thread, which takes no time to start.

    Args:
        app: its services are used.
        network: answers instead of the app's own.
        leases: more of `Leases`'s arguments.
    """

    def __init__(
        self,
        app: Rep3DApp,
        folder: Path,
        network: LookAlike | None = None,
        authentication: Authentication | None = None,
        **leases,
    ) -> None:
        self.folder = folder
        services = replace(app.services, leases=Leases(Conversation.end, **leases))
        if network is not None:
            sessions = InteractiveSessions(folder, network, services.studies, services.sessions, 3600)
            services = replace(services, interaction=sessions)
        self.services = services
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/nninteractive"
        asgi = make_server(services, authentication or Authentication())
        config = uvicorn.Config(asgi, port=self.port, log_level="error", lifespan="off", http=Connection)
        self._server = uvicorn.Server(config)

    def mask(self) -> np.ndarray:
        """That of the session that was used last, as the server keeps it."""
        return self.session().mask(LABEL)

    def kept(self) -> tuple:
        """All of that session that a refused request must leave as it was."""
        session = self.session()
        return session.id, session.prompts(LABEL), session.undoable(LABEL), session.mask(LABEL).tobytes()

    def session(self) -> InteractiveSession:
        """That which was used last."""
        sessions = self.services.interaction
        return sessions.get(sessions.list(None)[0]["id"], None)

    def __enter__(self) -> "Running":
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_) -> None:
        self._server.should_exit = True
        self._thread.join(10)
