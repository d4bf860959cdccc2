"""Lists of the API: pages, limits, marking and deleting."""

from __future__ import annotations

from ehlo.store import Delivery
from support.inboxes import inbox
from support.storing import in_loop, mail


@in_loop
async def test_a_list_has_the_newest_first() -> None:
    deliveries = [Delivery(mail(f"number {each}")) for each in range(3)]
    async with inbox(*deliveries) as (_, api):
        answer = (await api.get("/api/v1/messages?limit=2")).json()
        assert [each["Subject"] for each in answer["messages"]] == ["number 2", "number 1"]
        assert (answer["total"], answer["count"], answer["messages_count"]) == (3, 2, 3)
