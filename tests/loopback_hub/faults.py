"""What can go wrong between a client and a Hub, as values that stand between a request and its answer."""

from __future__ import annotations

from collections.abc import Callable

from tests.loopback_hub.messages import Request, Response

Answer = Callable[[], Response]
Fault = Callable[[Request, Answer], Response]
"""Called with a request and what would answer it; what it returns is sent."""
