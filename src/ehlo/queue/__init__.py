"""The queue: mail that was answered 250, on disk until each recipient is done.

    server = ehlo.Server(ehlo.Queue("mail.db", handler), addr="127.0.0.1:2525")

`Queue` is a handler around a handler. It knows SMTP's replies, and nothing of sockets.
"""

from __future__ import annotations

from ehlo.queue.accepting import Queue
from ehlo.queue.attempts import QueuedMessage, Retry

__all__ = ["Queue", "QueuedMessage", "Retry"]
