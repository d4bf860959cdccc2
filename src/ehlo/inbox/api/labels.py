"""Tags of messages: all of them, setting them, renaming and deleting one."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ehlo.inbox.answers import RefusedError, done, json_answer, read_json, resource
from ehlo.inbox.api.shapes import TagRequest, TagsRequest
from ehlo.inbox.desk import Desk, inbox_of

_MOST_CHANGES: Final = 100_000  # in one request, since mail waits for them


class Labels:
    """The endpoints of tags."""

    def __init__(self, desk: Desk) -> None:
        self._store = desk.store

    async def all(self, request: Request) -> Response:
        """Return all tags."""
        return json_answer(list(await self._store.tags(inbox_of(request))))

    async def set(self, request: Request) -> Response:
        """Replace the tags of messages."""
        wanted = await read_json(request, TagsRequest)
        if len(wanted["Tags"]) * len(wanted["IDs"]) > _MOST_CHANGES:
            raise RefusedError(f"more than {_MOST_CHANGES} tags to set; set fewer at once")
        await self._store.set_tags(wanted["IDs"], wanted["Tags"], inbox=inbox_of(request))
        return done()

    async def rename(self, request: Request) -> Response:
        """Rename a tag."""
        name = (await read_json(request, TagRequest))["Name"]
        try:
            await self._store.rename_tag(_tag_of(request), name, inbox=inbox_of(request))
        except ValueError as error:
            raise RefusedError(str(error)) from None
        return done()

    async def delete(self, request: Request) -> Response:
        """Delete a tag."""
        try:
            await self._store.delete_tag(_tag_of(request), inbox=inbox_of(request))
        except ValueError as error:
            raise RefusedError(str(error)) from None
        return done()


def _tag_of(request: Request) -> str:
    return str(request.path_params["tag"])


def routes(desk: Desk) -> list[BaseRoute]:
    """Return the routes of tags."""
    labels = Labels(desk)
    return [
        resource("/api/v1/tags", GET=labels.all, PUT=labels.set),
        resource("/api/v1/tags/{tag}", PUT=labels.rename, DELETE=labels.delete),
    ]
