"""What the audit log tells beside requests: what begins and ends in the server, without what it holds."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

_logger = logging.getLogger(__name__)
_logger.setLevel(logging.INFO)
_logger.propagate = False  # to the app's log


def audit_line(**entry: object) -> str:
    """An entry of the audit log, with the time."""
    return json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **entry})


def record_event(event: str, **entry: object) -> None:
    """Have it in the audit log, where there is one."""
    _logger.info(audit_line(event=event, **entry))


def take_events(handler: logging.Handler) -> None:
    """Give all that is recorded from now on to the audit log's file."""
    _logger.handlers[:] = [handler]
