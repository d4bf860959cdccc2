"""The protocol: what SMTP says. Bytes in, events and replies out, without input or output.

It needs no event loop, socket, clock, log or thread. Begin with `Responder`, which is a whole
server; `Connection` below it gives you every event.
"""

from ehlo.protocol import events
from ehlo.protocol.connection import Connection
from ehlo.protocol.events import NEED_DATA, PAUSED
from ehlo.protocol.reply import Disconnect, Reject, Reply
from ehlo.protocol.responder import Responder
from ehlo.protocol.settings import Settings

__all__ = [
    "NEED_DATA",
    "PAUSED",
    "Connection",
    "Disconnect",
    "Reject",
    "Reply",
    "Responder",
    "Settings",
    "events",
]
