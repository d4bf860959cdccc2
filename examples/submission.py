"""Accepts mail for submission with a class that has hooks."""

import itertools
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import ehlo


class Directory:
    """Knows the users. A real one would ask a database."""

    async def knows(self, recipient: ehlo.Address) -> bool:
        return recipient.local in ("alice", "bob") and recipient.domain.lower() == "example.com"


class Queue:
    """Keeps messages to forward. A real one would write to disk before it returns."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    async def put(
        self, sender: ehlo.Address, recipients: Sequence[ehlo.Address], data: bytes
    ) -> str:
        queue_id = f"Q{next(self._numbers)}"
        print(f"{queue_id}: from <{sender}> for {len(recipients)}: {len(data)} bytes")
        return queue_id


class Submission(ehlo.Handler):
    """Accepts mail for the users in the directory and queues it."""

    def __init__(self, directory: Directory, queue: Queue) -> None:
        self.directory = directory
        self.queue = queue

    async def on_rcpt(
        self, session: ehlo.Session, recipient: ehlo.Address, params: Mapping[str, Any]
    ) -> None:
        if not await self.directory.knows(recipient):
            raise ehlo.Reject(550, "5.1.1", "No such user here")

    async def on_message(self, session: ehlo.Session, message: ehlo.Message) -> str:
        """Queue the message and return its queue id: `250 2.0.0 Ok: queued as Q1`."""
        return await self.queue.put(message.sender, message.recipients, message.data)


logging.basicConfig(level=logging.INFO)
addr = sys.argv[1] if sys.argv[1:] else "127.0.0.1:2525"
ehlo.Server(Submission(Directory(), Queue()), addr=addr).listen_and_serve()
