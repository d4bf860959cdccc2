"""`Desk`: what the API, its events and the pages share; one for each catcher of mail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from starlette.requests import HTTPConnection

from ehlo.faults import Faults
from ehlo.inbox.api.anatomy import Outlines
from ehlo.inbox.live.hub import Hub
from ehlo.inbox.relay import Relay
from ehlo.store import Delivery, Store

Deliver = Callable[[Delivery], Awaitable[str]]
"""Sorts a mail into its inbox, stores it, and returns its id."""
Check = Callable[[str, str], bool]
"""Returns whether a user name and a password are right; slow on purpose, so it runs in a thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebOptions:
    """Holds the options of the API and of the pages."""

    label: str = ""
    """A name of this inbox, shown on the pages."""
    smtp: tuple[str, int] | None = None
    """The host and the port that mail is sent to, shown while there is no mail."""
    root: str = ""
    """The path below which everything is, such as `/mail`; empty for `/`."""
    hosts: tuple[str, ...] = ()
    """Names that the `Host` of a request may have, in addition to the loopback addresses."""
    is_loopback: bool = True
    """Whether the address to listen on is a loopback address."""
    origins: tuple[str, ...] = ()
    """Foreign origins that may use the API, such as `app.example.com:3000`; `*` for all."""
    check: Check | None = None
    """Checks logins; `None` if no login is needed."""
    relay: str = field(default="", repr=False)
    """The address of the server to release mail to: `smtp://relay.example.com:25`; may be empty."""
    keep: int = 500
    """How many mails each inbox keeps; 0 for all."""
    keep_age: float = 0
    """How long mails are kept, in seconds; 0 for ever."""
    max_size: int = 104_857_600
    """Maximum size of a message that is posted to the API, in bytes."""


@dataclass(slots=True)
class Traffic:
    """Counts since the start."""

    started: float = field(default_factory=time.time)
    """When counting began, in seconds since the epoch."""
    accepted: int = 0
    accepted_size: int = 0
    """The size of the accepted messages in bytes."""
    rejected: int = 0
    """The replies 4xx and 5xx in the transcripts of sessions that have ended; the lines that a
    transcript leaves out are not counted."""
    ignored: int = 0
    deleted: int = 0
    waiting: int = 0
    """The number of requests that wait for a mail just now."""
    trouble: str = ""
    """Why the last mail was not stored, such as a full disk; empty if it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """Holds what the API, its events and the pages share."""

    store: Store
    faults: Faults
    deliver: Deliver
    options: WebOptions = field(default_factory=WebOptions)
    traffic: Traffic = field(default_factory=Traffic)
    outlines: Outlines = field(default_factory=Outlines)
    """Where the parts of large messages are that were read before."""
    turns: asyncio.Semaphore = field(default_factory=partial(asyncio.Semaphore, 2))
    """The turns in which large messages are in memory as a whole; few are at once."""
    hub: Hub = field(init=False)
    """Passes on what changes in the store, and what SMTP clients were refused."""

    relay: Relay | None = field(init=False)
    """The server to release mail to; `None` without one."""

    def __post_init__(self) -> None:
        relay = self.options.relay
        object.__setattr__(self, "relay", Relay.of(relay) if relay else None)
        object.__setattr__(self, "hub", Hub(self.store))


def inbox_of(request: HTTPConnection) -> str | None:
    """Return the inbox that the path of a request names, `/inbox/NAME/…`; `None` for all."""
    name = request.path_params.get("inbox")
    return None if name is None else str(name)


def user_of(request: HTTPConnection) -> str:
    """Return the user who has logged in, which the guard has checked; empty without a login."""
    return str(request.scope.get("state", {}).get("user", ""))
