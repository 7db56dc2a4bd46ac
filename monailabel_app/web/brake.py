"""A brake on those who guess keys and passwords."""

from __future__ import annotations

import ipaddress
import time
from collections import deque

from monailabel_app.errors import RequestError

FAILURES = 20  # of one address within SECONDS, after which it is refused until they are that old
SECONDS = 60
IPV6_SITE = 64  # bits of an address; one computer has all that begin so


class Brake:
    """Counts wrong credentials by the caller's address."""

    def __init__(self) -> None:
        self._failures: dict[str, deque[float]] = {}

    def check(self, client: str) -> None:
        """Let an address try its credentials.

        Raises:
            RequestError: 429, too many were wrong.
        """
        if len(self._recent(_site(client))) >= FAILURES:
            raise RequestError(429, f"too many wrong credentials from this address: try again in {SECONDS} seconds")

    def failed(self, client: str) -> None:
        """Count wrong credentials, and forget the addresses that have none of late."""
        for site in list(self._failures):
            if not self._recent(site):
                del self._failures[site]
        self._failures.setdefault(_site(client), deque(maxlen=FAILURES)).append(time.monotonic())

    def take_back(self, client: str) -> None:
        """Forget the last failure."""
        failures = self._recent(_site(client))
        if failures:
            failures.pop()

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
