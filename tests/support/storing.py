"""Stores under test: async tests, mails, and what pages show."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import wraps

from ehlo.store import Delivery, Page, Store

Body = Callable[..., Awaitable[None]]


def in_loop(body: Body) -> Callable[..., None]:
    """Run an async test."""

    @wraps(body)
    def test(*args: object, **keywords: object) -> None:
        async def run() -> None:
            await body(*args, **keywords)

        asyncio.run(run())

    return test


def mail(subject: str = "hello", text: str = "body") -> bytes:
    return f"From: a@x.test\r\nTo: b@y.test\r\nSubject: {subject}\r\n\r\n{text}\r\n".encode()


async def fill(store: Store, count: int, inbox: str = "") -> list[str]:
    deliveries = [Delivery(mail(f"number {each}"), inbox=inbox) for each in range(count)]
    return list(await asyncio.gather(*map(store.put, deliveries)))


def subjects(page: Page) -> list[str]:
    return [json.loads(each.summary)["Subject"] for each in page.mails]


def ids(page: Page) -> list[str]:
    return [each.id for each in page.mails]
