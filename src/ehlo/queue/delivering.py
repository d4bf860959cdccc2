"""Delivering: one consumer and its task, from the first claim to the last outcome."""

from __future__ import annotations

import asyncio

from ehlo.queue.engine import Deliverer, Reserved


class Delivering:
    """Runs a consumer in a task of its own."""

    def __init__(self, consumer: Deliverer) -> None:
        self._consumer = consumer
        self._task = asyncio.create_task(consumer.run(), name="ehlo queue")

    @property
    def has_ended(self) -> bool:
        """Whether the consumer delivers no more."""
        return self._task.done()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to deliver."""
        return self._consumer.is_idle

    @property
    def failure(self) -> BaseException | None:
        """The exception that has ended the consumer; `None` if it was stopped, or runs."""
        if not self._task.done() or self._task.cancelled():
            return None
        return self._task.exception()

    def reserve(self) -> Reserved | None:
        """Return a place for a message that is put now, if there is one."""
        return self._consumer.reserve()

    def wake(self) -> None:
        """Called when a message was put."""
        self._consumer.wake()

    def stop(self) -> None:
        """Claim nothing more."""
        self._consumer.stop()

    async def ended(self) -> None:
        """Wait until what is under way has ended, after `stop`.

        If this is canceled, so is what is under way.
        """
        await asyncio.gather(self._task, return_exceptions=True)

    async def abandon(self) -> None:
        """Cancel what is under way, and wait for that."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
