"""Facts about the inbox itself: `info`, `webui`, `livez` and `readyz`."""

from __future__ import annotations

import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ehlo.inbox.answers import json_answer, resource
from ehlo.inbox.api.shapes import AppInfo, WebSettings
from ehlo.inbox.desk import Desk, inbox_of
from ehlo.store import StoreError

_MEMORY: Final = Path("/proc/self/statm")


class About:
    """The endpoints about the inbox itself."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._version = version("ehlo")

    async def info(self, request: Request) -> Response:
        """Return versions, sizes and counts."""
        store, traffic, inbox = self._desk.store, self._desk.traffic, inbox_of(request)
        counts = await store.counts(inbox)
        info: AppInfo = {
            "Version": self._version,
            "LatestVersion": "disabled",
            "Database": store.path,
            "DatabaseSize": await store.size(),
            "Messages": counts.total,
            "Unread": counts.unread,
            "Tags": await store.tags(inbox),
            "RuntimeStats": {
                "Uptime": int(time.time() - traffic.started),
                "Memory": _memory(),
                "MessagesDeleted": traffic.deleted,
                "SMTPAccepted": traffic.accepted,
                "SMTPAcceptedSize": traffic.accepted_size,
                "SMTPRejected": traffic.rejected,
                "SMTPIgnored": traffic.ignored,
            },
        }
        return json_answer(info)

    async def webui(self, _request: Request) -> Response:
        """Return what the pages need to know."""
        options, relay = self._desk.options, self._desk.relay
        settings: WebSettings = {
            "Label": options.label,
            "MessageRelay": {
                "Enabled": relay is not None,
                "SMTPServer": "" if relay is None else relay.address,
                "ReturnPath": "",
                "AllowedRecipients": "",
                "BlockedRecipients": "",
                "OverrideFrom": "",
                "PreserveMessageIDs": False,
                "RecipientAllowlist": "",
            },
            "SpamAssassin": False,
            "ChaosEnabled": True,
            "DuplicatesIgnored": False,
            "HideDeleteAllButton": False,
        }
        return json_answer(settings)

    async def livez(self, _request: Request) -> Response:
        """Return 200, since this is running."""
        return Response()

    async def readyz(self, _request: Request) -> Response:
        """Return 200 if the store answers, else 503."""
        try:
            await self._desk.store.counts()
        except StoreError:
            return Response(status_code=503)
        return Response()


def _memory() -> int:
    """Return the memory of this process in bytes; 0 where the system does not say."""
    try:
        return int(_MEMORY.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def routes(desk: Desk) -> list[BaseRoute]:
    """Return the routes about the inbox itself."""
    about = About(desk)
    return [
        resource("/api/v1/info", GET=about.info),
        resource("/api/v1/webui", GET=about.webui),
        resource("/livez", GET=about.livez),
        resource("/readyz", GET=about.readyz),
    ]
