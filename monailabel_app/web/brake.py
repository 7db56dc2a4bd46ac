"""A brake on those who guess keys and passwords."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager

from monailabel_app.errors import RequestError

FAILURES = 20  # of one address within SECONDS, after which it is refused until they are that old
SECONDS = 60
SITES = 2**14  # that are remembered; of more, those whose last failure is the oldest are forgotten
IPV6_SITE = 64  # bits of an address; one computer has all that begin so
# Characters of a random key or a signed token, which no number of guesses finds: who holds one comes in whatever others
# guess at the same address, such as that of a hospital's proxy.
UNGUESSABLE = 32


class Brake:
    """Counts wrong credentials by the caller's address. Threads may share it."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()  # of sites, by their last one
        self._lock = threading.Lock()

    @contextmanager
    def trying(self, client: str, secret: str) -> Iterator[None]:
        """Let an address try credentials in this context, which raises RequestError 401 where they are wrong.

        Args:
            secret: the key, token or password among them.

        Raises:
            RequestError: 429, too many were wrong.
        """
        if len(secret) >= UNGUESSABLE:
            yield
            return
        site = _site(client)
        self._check(site)
        try:
            yield
        except RequestError as error:
            if error.status == 401:
                self._failed(site)
            raise
        self._check(site)  # again: of many guesses at a time all came in before the first was wrong

    def _check(self, site: str) -> None:
        with self._lock:
            if len(self._recent(site)) >= FAILURES:
                raise RequestError(429, f"too many wrong credentials from this address: try again in {SECONDS} seconds")

    def _failed(self, site: str) -> None:
        with self._lock:
            self._failures.setdefault(site, deque(maxlen=FAILURES)).append(time.monotonic())
            self._failures.move_to_end(site)
            while len(self._failures) > SITES or not self._recent(next(iter(self._failures))):
                self._failures.popitem(last=False)

    def _recent(self, site: str) -> deque[float]:
        failures = self._failures.get(site, deque())
        while failures and failures[0] < time.monotonic() - SECONDS:
            failures.popleft()
        return failures


def _site(client: str) -> str:
    """What one caller may call from: an IPv4 address, the network of an IPv6 address."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    address = getattr(address, "ipv4_mapped", None) or address
    bits = IPV6_SITE if address.version == 6 else address.max_prefixlen
    return str(ipaddress.ip_network((address, bits), strict=False))
