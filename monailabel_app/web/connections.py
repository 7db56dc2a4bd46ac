"""Connections that bring no request. uvicorn waits for one for ever, and each holds memory and a file of the server."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 30  # from the connection, or the last answer on it, to the end of a request's header


class Connection(H11Protocol):
    """uvicorn's, closed where no whole header comes in time."""

    _header_limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._limit_header()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._limit_header()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._header_limit is not None:
            self._header_limit.cancel()
        super().connection_lost(exc)

    def _limit_header(self) -> None:
        if self._header_limit is not None:
            self._header_limit.cancel()
        self._header_limit = self.loop.call_later(HEADER_SECONDS, self._close_unless_answering)

    def _close_unless_answering(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
