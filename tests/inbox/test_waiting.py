"""`GET search/wait`: what it returns, when, and how many may wait."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import Any

import pytest

from ehlo.inbox import Desk
from ehlo.inbox.live import waiting
from ehlo.store import Delivery
from support.sites import DEADLINE, Line, browser, desk
from support.storing import fill, in_loop, mail

WAIT = "/api/v1/search/wait"


async def get(site: Desk, path: str = WAIT, **query: object) -> tuple[int, dict[str, Any]]:
    given = {"timeout": "60", **{name: str(value) for name, value in query.items()}}
    answer = await browser(site).get(path, params=given, timeout=DEADLINE)
    return answer.status_code, answer.json()


async def waiters(site: Desk, number: int) -> None:
    """Wait until so many wait."""
    async with asyncio.timeout(DEADLINE):
        while site.traffic.waiting != number:  # noqa: ASYNC110  a count has no event
            await asyncio.sleep(0)


async def put(site: Desk, subject: str, inbox: str = "") -> str:
    return await site.store.put(Delivery(mail(subject), inbox=inbox))


def subjects(found: dict[str, Any]) -> list[str]:
    return [each["Subject"] for each in found["messages"]]


@in_loop
async def test_a_message_that_is_there_is_returned_whole_and_stays_unread() -> None:
    async with desk() as site:
        mail_id = await put(site, "Your code")
        status, found = await get(site, query="subject:code")
        assert status == 200
        assert (found["count"], found["total"], found["unread"]) == (1, 1, 1)
        whole = (await browser(site).get(f"/api/v1/message/{mail_id}")).json()
        assert found["messages"] == [whole]
        assert whole["Text"] == "body\r\n"
        assert (await site.store.counts()).unread == 0  # by the request for the message


@in_loop
async def test_a_request_waits_for_messages_that_match() -> None:
    async with desk() as site:
        await put(site, "reset 0")
        waits = asyncio.ensure_future(get(site, query="subject:reset", count=3))
        await waiters(site, 1)
        await put(site, "other")
        await put(site, "reset 1")
        assert not waits.done()
        await put(site, "reset 2")
        status, found = await waits
        assert (status, subjects(found)) == (200, ["reset 2", "reset 1", "reset 0"])
        assert site.traffic.waiting == 0
        assert site.hub.listeners == 0


@in_loop
async def test_in_the_end_what_did_arrive_is_returned() -> None:
    async with desk() as site:
        await put(site, "reset 1")
        assert (await get(site, query="subject:reset", count=2, timeout=0)) == (
            408,
            (await get(site, query="subject:reset"))[1],
        )
        status, found = await get(site, query="nothing", timeout="0.01")
        assert (status, found["messages"], found["count"]) == (408, [], 0)


@in_loop
async def test_only_what_came_since_counts() -> None:
    async with desk() as site:
        old = await put(site, "old")
        status, found = await get(site, since=old, timeout=0)
        assert (status, found["messages"]) == (408, [])
        waits = asyncio.ensure_future(get(site, since=old))
        await waiters(site, 1)
        new = await put(site, "new")
        assert subjects((await waits)[1]) == ["new"]
        (stored,) = await site.store.find([new])
        for since, count in ((stored.created, 1), (stored.created + 1, 0)):
            moment = (
                f"{__import__('datetime').datetime.fromtimestamp(since).astimezone().isoformat()}"
            )
            assert (await get(site, since=moment, timeout=0))[1]["count"] == count
        assert (await get(site, since=str(int(stored.created) - 1), timeout=0))[0] == 200


@in_loop
async def test_other_changes_wake_it_too() -> None:
    async with desk() as site:
        mail_id = await put(site, "one")
        waits = asyncio.ensure_future(get(site, query="tag:done is:read"))
        await waiters(site, 1)
        await site.store.mark(read=True, ids=[mail_id])
        await site.store.set_tags([mail_id], ["done"])
        assert subjects((await waits)[1]) == ["one"]


@in_loop
async def test_each_inbox_is_waited_for_on_its_own() -> None:
    async with desk() as site:
        waits = asyncio.ensure_future(get(site, f"/inbox/a{WAIT}"))
        await waiters(site, 1)
        await put(site, "for b", "b")
        await put(site, "for a", "a")
        assert subjects((await waits)[1]) == ["for a"]


@in_loop
async def test_no_message_is_missed_between_the_search_and_the_wait() -> None:
    async with desk(keep=0) as site:
        for number in range(100):
            waits = asyncio.ensure_future(get(site, query=f"subject:number-{number}-"))
            await asyncio.sleep(0)
            await put(site, f"number-{number}-")
            assert (await waits)[0] == 200


@in_loop
async def test_a_value_that_makes_no_sense_is_an_error() -> None:
    cases = {
        "count": (
            "0",
            "-1",
            "101",
            "x",
            "1.5",
            "²",
            "1" * 500,
            "00000000100000",
            "0" * 5_000 + "1",
        ),
        "timeout": ("-1", "301", "nan", "inf", "x", "1e400"),
        "since": ("yesterday", "x" * 22, "2026-13-45", "\0"),
    }
    async with desk() as site:
        client = browser(site)
        for name, values in cases.items():
            for value in values:
                answer = await client.get(WAIT, params={name: value})
                assert answer.status_code == 400, (name, value)
                assert name in answer.text


@in_loop
async def test_a_client_that_leaves_waits_no_longer() -> None:
    async with desk() as site:
        async with Line(site, f"{WAIT}?query=never&timeout=300") as line:
            await waiters(site, 1)
            line.leave()
            await line.ended()
        assert site.traffic.waiting == 0
        assert site.hub.listeners == 0


@in_loop
async def test_ten_thousand_requests_do_not_all_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk() as site:
        made = browser(site)
        requests: list[Awaitable[Any]] = [
            made.get(WAIT, params={"query": "subject:go", "timeout": "60"}, timeout=DEADLINE)
            for _ in range(2_000)
        ]
        waits = asyncio.gather(*requests)
        await waiters(site, waiting.MOST_WAITERS)
        await put(site, "go")
        counts: dict[int, int] = {}
        for answer in await waits:
            counts[answer.status_code] = counts.get(answer.status_code, 0) + 1
        assert counts == {200: waiting.MOST_WAITERS, 503: 2_000 - waiting.MOST_WAITERS}


@in_loop
async def test_whole_messages_are_sent_one_after_the_other() -> None:
    async with desk() as site:
        await fill(site.store, 3)
        async with Line(site, f"{WAIT}?count=3") as line:
            assert (await line.message())["status"] == 200
            bodies = await line.body()
        assert sum(b'"Subject"' in body for body in bodies) == 3
        assert json.loads(b"".join(bodies))["count"] == 3


@in_loop
async def test_a_large_message_is_encoded_in_pieces() -> None:
    """As a whole, its JSON keeps all other threads waiting."""
    async with desk() as site:
        await site.store.put(Delivery(mail(text="<&>ä " * 200_000)))
        async with Line(site, WAIT) as line:
            assert (await line.message())["status"] == 200
            pieces = await line.body()
        assert max(map(len, pieces)) < 1 << 20
        (message,) = json.loads(b"".join(pieces))["messages"]
        assert message["Text"] == "<&>ä " * 200_000 + "\r\n"
