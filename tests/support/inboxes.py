"""Inboxes under test: the site of a desk, and requests to it without a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from ehlo.faults import Faults
from ehlo.inbox import Desk, WebOptions, make_site
from ehlo.store import Delivery, Store


def desk_of(store: Store, options: WebOptions | None = None) -> Desk:
    """Return a desk whose mail goes into the inbox that it names."""

    async def deliver(delivery: Delivery) -> str:
        return await store.put(delivery)

    return Desk(store=store, faults=Faults(), deliver=deliver, options=options or WebOptions())


@asynccontextmanager
async def api_of(desk: Desk, **keywords: str) -> AsyncIterator[httpx.AsyncClient]:
    """Enter a client of the site of `desk`."""
    transport = httpx.ASGITransport(app=make_site(desk))
    base = "http://127.0.0.1:8025" + desk.options.root
    async with httpx.AsyncClient(transport=transport, base_url=base, headers=keywords) as client:
        yield client


@asynccontextmanager
async def inbox(
    *deliveries: Delivery, options: WebOptions | None = None, keep: int = 0
) -> AsyncIterator[tuple[Store, httpx.AsyncClient]]:
    """Enter a store with mail in it, and a client of its API."""
    async with Store.open(keep=keep) as store, api_of(desk_of(store, options)) as client:
        for delivery in deliveries:
            await store.put(delivery)
        yield store, client
