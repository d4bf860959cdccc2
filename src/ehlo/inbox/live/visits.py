"""Sessions that brought no mail: failed logins, rejected recipients, clients that left."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, TypedDict

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ehlo.inbox.answers import done, number_of, ready_answer, resource
from ehlo.inbox.api.goform import to_text
from ehlo.inbox.desk import Desk, inbox_of
from ehlo.inbox.live.looks import SessionLine, session_lines
from ehlo.store import StoredSession

_USUAL: Final = 50
_MOST: Final = 500


class MaillessSession(TypedDict):
    """A session that brought no mail."""

    Number: int
    """Its number; a later session has a larger one."""
    Inbox: str
    Created: float
    """When it ended, in seconds since the epoch."""
    Username: str
    Facts: Mapping[str, object]
    """What is known of the session, such as `peer`, `helo` and `tls`."""
    Lines: list[SessionLine]


class SessionList(TypedDict):
    """Sessions that brought no mail."""

    sessions: list[MaillessSession]
    """The newest first."""


class Visits:
    """The endpoints of sessions that brought no mail."""

    def __init__(self, desk: Desk) -> None:
        self._store = desk.store

    async def list(self, request: Request) -> Response:
        """Return the newest ones; with `before`, those that are older than that number."""
        sessions = await self._store.sessions(
            inbox_of(request),
            before=number_of(request, "before", 0) or None,
            limit=min(number_of(request, "limit", _USUAL), _MOST),
        )
        # Transcripts may be long
        return ready_answer(await asyncio.to_thread(lambda: to_text(_shown(sessions))))

    async def delete(self, request: Request) -> Response:
        """Delete them."""
        await self._store.delete_sessions(inbox_of(request))
        return done()


def _shown(sessions: Sequence[StoredSession]) -> SessionList:
    found: list[MaillessSession] = [
        {
            "Number": each.number,
            "Inbox": each.inbox,
            "Created": each.created,
            "Username": each.username,
            "Facts": each.facts,
            "Lines": session_lines(each.transcript),
        }
        for each in sessions
    ]
    return {"sessions": found}


def routes(desk: Desk) -> list[BaseRoute]:
    """Return the route of sessions that brought no mail."""
    visits = Visits(desk)
    return [resource("/api/v1/sessions", GET=visits.list, DELETE=visits.delete)]
