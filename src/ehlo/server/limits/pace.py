"""How fast a body must come as a whole. The time in which we do not read it is ours."""

from __future__ import annotations

__all__ = ["GRACE", "Pace"]

GRACE = 60.0
"""Seconds for which a body may come as slowly as it likes."""


class Pace:
    """One body, from its first read on; `received` is what its connection has brought so far."""

    __slots__ = ("_began", "_from", "_held")

    def __init__(self, now: float, received: int) -> None:
        self._began = now
        self._from = received
        self._held: float | None = None  # since when we do not read

    def hold(self, now: float) -> bool:
        """We do not read any more; whether we did."""
        reading = self._held is None
        if reading:
            self._held = now
        return reading

    def due(self, now: float, received: int, rate: int) -> float:
        """We read; when it is too late for the next octet, at `rate` octets a second."""
        if self._held is not None:
            self._began += now - self._held
            self._held = None
        return self._began + GRACE + (received - self._from) / rate
