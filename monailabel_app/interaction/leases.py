"""Places at the server that clients hold for a while: as long as somebody works there, and the client is alive."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from monailabel_app.errors import RequestError

MAX_LEASES = 8
IDLE_SECONDS = 1800.0  # since the user last did something
LIVENESS_SECONDS = 60.0  # since the client last sent anything: it beats twice in that time
MAX_WAITING = 1  # request of a client while another works: it sends one after the other

HeldT = TypeVar("HeldT")


@dataclass
class _Lease(Generic[HeldT]):
    owner: str
    held: HeldT
    active: float  # when the user last did something
    seen: float  # when the client last sent something
    requests: int = 0  # that are at work or wait
    turn: threading.Lock = field(default_factory=threading.Lock)


class Leases(Generic[HeldT]):
    """The places, each with what the server keeps for the client that holds it.

    A lease is its owner's alone: with another's token it is as if there was none.

    Args:
        ended: called with what a lease has held, once it has ended and none of its requests is at work.
        most: at a time.
        spared: of these, which one owner leaves to others.
        idle: seconds without work of the user after which a lease ends.
        liveness: seconds without any sign of the client.
        clock: tells seconds.
    """

    def __init__(
        self,
        ended: Callable[[HeldT], None],
        most: int = MAX_LEASES,
        spared: int = 0,
        idle: float = IDLE_SECONDS,
        liveness: float = LIVENESS_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most, self.idle, self.liveness = most, idle, liveness
        self._spared = spared
        self._ended = ended
        self._clock = clock
        self._lock = threading.Lock()
        self._leases: dict[str, _Lease[HeldT]] = {}

    def claim(self, owner: str, held: HeldT) -> str:
        """A new lease's token.

        Raises:
            RequestError: 503, all places are taken, or the owner has all that one may have.
        """
        with self._current():
            if len(self._leases) >= self.most:
                raise RequestError(503, f"all {self.most} places of the server are taken, try again later")
            own = sum(lease.owner == owner for lease in self._leases.values())
            if own >= self.most - self._spared:
                raise RequestError(503, f"you hold {own} of the server's {self.most} places: the rest is for others")
            token, now = secrets.token_urlsafe(32), self._clock()
            self._leases[token] = _Lease(owner, held, now, now)
        return token

    def release(self, token: str, owner: str) -> None:
        """End a lease, if there is one; what its requests do goes on."""
        with self._current() as gone:
            if self._find(token, owner):
                lease = self._leases.pop(token)
                if not lease.requests:
                    gone.append(lease)

    def remaining(self, token: str, owner: str, *, alive: bool = False) -> float:
        """Seconds until a lease ends unless the user does something.

        This is quick: what leases that have expired hold is left to the next claim, release or request at work.

        Args:
            alive: take this as a sign that the client is.

        Raises:
            RequestError: 410, the lease has ended, or never was.
        """
        with self._lock:
            lease = self._get(token, owner)
            if alive:
                lease.seen = self._clock()
            return max(lease.active + self.idle - self._clock(), 0.0)

    @contextmanager
    def acting(self, token: str, owner: str) -> Iterator[HeldT]:
        """What a lease holds, for one request of its user at a time. It does not end meanwhile.

        Raises:
            RequestError: 410, as above; 429, too many of its requests wait.
        """
        with self._current():
            lease = self._get(token, owner)
            if lease.requests > MAX_WAITING:
                raise RequestError(429, "another request of this client is waiting already")
            lease.requests += 1
        try:
            with lease.turn:
                yield lease.held
        finally:
            with self._lock:
                lease.requests -= 1
                lease.active = lease.seen = self._clock()
                is_over = not lease.requests and token not in self._leases
            if is_over:
                self._ended(lease.held)

    @contextmanager
    def _current(self) -> Iterator[list[_Lease[HeldT]]]:
        """Keep other threads away while the context lasts, and what has expired; what ends beside that may be added."""
        gone: list[_Lease[HeldT]] = []
        try:
            with self._lock:
                gone += [self._leases.pop(token) for token in list(self._leases) if self._is_expired(token)]
                yield gone
        finally:
            for lease in gone:  # not under the lock: it may take a while
                self._ended(lease.held)

    def _is_expired(self, token: str) -> bool:
        lease, now = self._leases[token], self._clock()
        return not lease.requests and (now > lease.active + self.idle or now > lease.seen + self.liveness)

    def _get(self, token: str, owner: str) -> _Lease[HeldT]:
        lease = self._find(token, owner)
        if lease is None:
            raise RequestError(410, "the lease has ended: connect again")
        return lease

    def _find(self, token: str, owner: str) -> _Lease[HeldT] | None:
        lease = self._leases.get(token)
        return lease if lease is not None and lease.owner == owner and not self._is_expired(token) else None
