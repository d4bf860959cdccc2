"""The bell: tells other consumers of a database that mail was put, and hears of it.

It rings after commits, and some time apart: a NOTIFY in the accepting transaction makes commits
wait for each other. It is a hint; without it, consumers look each second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ehlo.queue.postgres.cable import Cable, Pg
from ehlo.queue.urls import DatabaseURL
from ehlo.sqlite.errors import StoreError

_CHANNEL: Final = "ehlo_queue"
_APART: Final = 0.02  # seconds between two rings
_EVERY: Final = 1.0  # seconds between two looks whether the connection is lost
_RING: Final = f"SELECT set_config('synchronous_commit', 'off', true), pg_notify('{_CHANNEL}', '')"


class Bell:
    """Rings on a connection of its own, which listens, too, once `listen` was called."""

    def __init__(self, url: DatabaseURL) -> None:
        self._cable = Cable(url, self._prepare)
        self._can_listen = not url.is_pooled
        self._heard: Callable[[], None] | None = None
        self._ringing: asyncio.Task[None] | None = None
        self._again = False
        self._keeping: asyncio.Task[None] | None = None

    def ring(self) -> None:
        """Tell others soon that there is mail."""
        self._again = True
        if self._ringing is None:
            self._ringing = asyncio.create_task(self._ring(), name="ehlo queue bell")

    async def _ring(self) -> None:
        try:
            while self._again:
                await asyncio.sleep(_APART)
                self._again = False
                await self._cable.do(lambda connection: connection.fetchval(_RING))
        except StoreError:  # consumers look without it
            self._again = False
        finally:
            self._ringing = None

    def listen(self, heard: Callable[[], None]) -> None:
        """Call `heard` when there may be mail, until `close`."""
        self._heard = heard
        if self._can_listen:
            self._keeping = asyncio.create_task(self._keep(), name="ehlo queue listener")

    async def _prepare(self, connection: Pg) -> None:
        if self._heard is not None and self._can_listen:
            await connection.add_listener(_CHANNEL, self._notified)

    def _notified(self, connection: Pg, pid: int, _channel: str, _payload: str) -> None:
        if self._heard is not None and pid != connection.get_server_pid():
            self._heard()

    async def _keep(self) -> None:
        """Connect again whenever the connection is lost."""
        while True:
            if not self._cable.is_connected:
                try:
                    await self._cable.do(lambda connection: connection.fetchval("SELECT 1"))
                except StoreError:  # the accepting side logs it
                    pass
                else:
                    if self._heard is not None:
                        self._heard()
            await asyncio.sleep(_EVERY)

    async def close(self) -> None:
        """End the connection."""
        tasks = [each for each in (self._keeping, self._ringing) if each is not None]
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._cable.close()
