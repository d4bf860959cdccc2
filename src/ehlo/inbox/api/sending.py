"""`POST send`: a message that comes by HTTP, into the same inboxes as one by SMTP."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ehlo.inbox.answers import RefusedError, json_answer, read_body, resource
from ehlo.inbox.api.composing import ComposeError, compose, recipients_of
from ehlo.inbox.api.goform import ShapeError, from_json
from ehlo.inbox.api.shapes import SendAnswer, SendRequest
from ehlo.inbox.desk import Desk, inbox_of, user_of
from ehlo.inbox.sorting import is_name
from ehlo.store import Delivery, StoreError


class Sending:
    """The endpoint of messages that come by HTTP."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def send(self, request: Request) -> Response:
        """Store the message that is described, and return its id."""
        try:
            body = await read_body(request, self._desk.options.max_size)
        except RefusedError as error:
            raise RefusedError(error.text, 413, as_json=True) from None
        inbox, user = inbox_of(request), user_of(request)
        if inbox is not None and not is_name(inbox):
            raise RefusedError(
                f"invalid inbox name: {inbox[:80]}: use up to 64 letters, digits and -_.+@, with "
                "no dot at either end",
                as_json=True,
            )
        try:
            delivery = await asyncio.to_thread(_delivery_of, body, inbox or "", user)
        except (ShapeError, ComposeError) as error:
            raise RefusedError(str(error), as_json=True) from None
        del body
        try:
            answer: SendAnswer = {"ID": await self._desk.deliver(delivery)}
        except StoreError as error:
            raise RefusedError(str(error), 503, as_json=True) from error
        return json_answer(answer)


def _delivery_of(body: bytes, inbox: str, user: str) -> Delivery:
    """Return the message in a request. Raises `ShapeError` and `ComposeError`."""
    wanted = from_json(body, SendRequest)
    message = compose(wanted)
    sender = "".join(wanted["From"]["Email"].split())
    return Delivery(message, sender, recipients_of(wanted), inbox=inbox, username=user)


def routes(desk: Desk) -> list[BaseRoute]:
    """Return the route of messages that come by HTTP."""
    return [resource("/api/v1/send", POST=Sending(desk).send)]
