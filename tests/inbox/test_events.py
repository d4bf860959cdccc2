"""Events: WebSocket as Mailpit has it, Server-Sent Events, and what each client may cost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import MutableMapping

import pytest

from ehlo.inbox import Desk
from ehlo.inbox.live import hub, streaming
from ehlo.inbox.live.hub import MOST_BEHIND
from ehlo.store import Delivery, Store, StoredMail, StoreError
from support.sites import DEADLINE, Line, browser, desk
from support.storing import fill, in_loop

WEBSOCKET = "/api/events"
STREAM = "/api/v1/events"


def websocket(site: Desk, path: str = WEBSOCKET, *, reads: bool = True) -> Line:
    return Line(site, path, websocket=True, reads=reads)


def stream(site: Desk, after: object = "", path: str = STREAM) -> Line:
    return Line(site, path, headers={"Last-Event-ID": str(after)} if after != "" else {})


@in_loop
async def test_a_websocket_begins_with_the_counts() -> None:
    async with desk() as site:
        await fill(site.store, 2)
        async with websocket(site) as line:
            assert (await line.message())["type"] == "websocket.accept"
            first = await line.event()
        assert first["Type"] == "stats"
        assert first["Data"].keys() == {"Total", "Unread", "Version"}
        assert (first["Data"]["Total"], first["Data"]["Unread"]) == (2, 2)
        assert site.hub.listeners == 0


@in_loop
async def test_events_are_those_of_mailpit() -> None:
    async with desk() as site, websocket(site) as line:
        await line.event("stats")
        sender = b"From: =?utf-8?q?J=C3=B6rg?= <a@x.test>\r\n"
        message = sender + b"To: b@y.test\r\nSubject: <Hi>\r\n\r\nHi there"
        mail_id = await site.store.put(Delivery(message, "a@x.test", ["b@y.test"], tags=["beta"]))
        new = (await line.event("new"))["Data"]
        assert new.pop("Created").endswith("Z")
        assert new == {
            "ID": mail_id,
            "MessageID": f"{mail_id}@ehlo",
            "Read": False,
            "From": {"Name": "Jörg", "Address": "a@x.test"},
            "To": [{"Name": "", "Address": "b@y.test"}],
            "Cc": [],
            "Bcc": [],
            "ReplyTo": [],
            "Subject": "<Hi>",
            "Username": "",
            "Tags": ["beta"],
            "Size": len(message),
            "Attachments": 0,
            "Snippet": "Hi there",
        }
        assert (await line.event("stats"))["Data"]["Total"] == 1
        await site.store.mark(read=True, ids=[mail_id])
        assert (await line.event("update"))["Data"] == {"ID": mail_id, "Read": True}
        await site.store.mark(read=True, ids=[mail_id])  # Mailpit tells of it again
        assert (await line.event("update"))["Data"] == {"ID": mail_id, "Read": True}
        await site.store.set_tags([mail_id], ["one"])
        assert (await line.event("update"))["Data"] == {"ID": mail_id, "Tags": ["one"]}
        await site.store.rename_tag("one", "two")
        assert (await line.event("prune"))["Data"] is None
        await site.store.delete(ids=[mail_id])
        assert (await line.event("delete"))["Data"] == {"ID": mail_id}
        await fill(site.store, 1)
        await site.store.delete()
        assert (await line.event("truncate"))["Data"] is None
        site.hub.report_error("rejected", "192.0.2.1", "550 5.1.1 No such user")
        assert (await line.event("error"))["Data"] == {
            "Level": "error",
            "Type": "rejected",
            "IP": "192.0.2.1",
            "Message": "550 5.1.1 No such user",
        }


@in_loop
async def test_an_event_has_the_beginning_of_a_long_list() -> None:
    people = ", ".join(f"p{each}@x.test" for each in range(900))
    async with desk() as site, websocket(site) as line:
        await line.event("stats")
        await site.store.put(Delivery(f"To: {people}\r\n\r\n".encode()))
        new = (await line.event("new"))["Data"]
        assert [each["Address"] for each in new["To"]] == people.split(", ")[:100]
        assert new["Omitted"] == {"To": 800}


@in_loop
async def test_each_inbox_has_events_of_its_own() -> None:
    async with desk() as site:
        async with (
            websocket(site, "/inbox/a/api/events") as own,
            stream(site, path="/inbox/b/api/v1/events") as other,
            websocket(site) as both,
        ):
            for line in (own, other, both):
                await line.event("stats")
            first, second = [*await fill(site.store, 1, "a"), *await fill(site.store, 1, "b")]
            assert (await own.event("new"))["Data"]["ID"] == first
            assert (await other.event("new"))["Data"]["ID"] == second
            assert [(await both.event("new"))["Data"]["ID"] for _ in range(2)] == [first, second]
            await site.store.mark(read=True)  # about all of them at once
            assert (await own.event("new", "update"))["Data"] == {"ID": first, "Read": True}
            assert (await other.event("new", "update"))["Data"] == {"ID": second, "Read": True}
            await site.store.delete(inbox="a")
            assert (await own.event("truncate", "prune"))["Type"] == "truncate"
            assert (await both.event("truncate", "prune"))["Type"] == "prune"  # those of b remain
            await site.store.delete()
            assert (await other.event("truncate", "prune"))["Type"] == "truncate"
            assert (await both.event("truncate", "prune"))["Type"] == "truncate"
        assert site.hub.listeners == 0


@in_loop
async def test_counts_are_told_once_for_many_changes() -> None:
    async with desk() as site, websocket(site) as line:
        await line.event("stats")
        await fill(site.store, 300)
        kinds: list[object] = []
        while kinds.count("new") < 300 or 300 not in kinds:
            event = await line.event("new", "stats")
            kinds.append(event["Data"].get("Total") if event["Type"] == "stats" else "new")
        assert len(kinds) - 300 < 100  # none is left out, at any speed


@in_loop
async def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_GOODBYE", DEADLINE)
    async with desk(keep=0) as site:
        async with websocket(site) as line, websocket(site) as other, stream(site) as third:
            for each in (line, other, third):
                await each.event("stats")
            line.reads(on=False)
            third.reads(on=False)
            for _ in range(3):
                await fill(site.store, MOST_BEHIND)
                for _ in range(MOST_BEHIND):
                    await other.event("new")
            await third.ended()
            line.reads(on=True)
            await line.ended()
            messages: list[MutableMapping[str, object]] = []
            while not messages or messages[-1]["type"] != "websocket.close":
                messages.append(await line.message())
            assert messages[-1]["code"] == 1008
            assert len(messages) < MOST_BEHIND
            await fill(site.store, 1)
            await other.event("new")
        assert site.hub.listeners == 0


@in_loop
async def test_a_connection_that_the_server_has_closed_ends_quietly() -> None:
    async with desk() as site, websocket(site) as line:
        await line.event("stats")
        line.is_closed = True
        await fill(site.store, 1)
        await line.ended()
        assert site.hub.listeners == 0


@in_loop
async def test_the_store_is_watched_only_while_a_client_listens() -> None:
    async with desk() as site:
        for _ in range(3):
            async with websocket(site) as line:
                await line.event("stats")
                assert site.hub.listeners == 1
                assert len(vars(site.store)["_keeper"]._watchers) == 1  # noqa: SLF001  its count
            assert site.hub.listeners == 0
            assert vars(site.store)["_keeper"]._watchers == []  # noqa: SLF001  as above


@in_loop
async def test_listeners_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "MOST_LISTENERS", 2)
    async with desk() as site, websocket(site) as one, stream(site) as two:
        await one.event("stats")
        await two.event("stats")
        async with websocket(site) as line:
            assert (await line.message())["type"] == "websocket.close"
        async with stream(site) as line:
            assert (await line.message())["status"] == 503


async def fill_all(site: Desk) -> None:
    await fill(site.store, 50)


@in_loop
async def test_a_flood_of_changes_is_one_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_MOST_WAITING", 10)
    async with desk() as site, websocket(site) as line:
        await line.event("stats")
        filling = threading.Thread(target=lambda: asyncio.run(fill_all(site)))
        filling.start()
        filling.join()  # which blocks the loop
        found = await line.event("prune")
        assert found["Data"] is None
        (mail_id,) = await fill(site.store, 1)
        while (await line.event("new"))["Data"]["ID"] != mail_id:
            pass


@in_loop
async def test_events_go_on_after_trouble_of_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that waits for mail would wait in vain."""

    async def fail(*_: object) -> list[StoredMail]:
        raise StoreError("no descriptors")

    async with desk() as site, websocket(site) as line:
        await line.event("stats")
        with monkeypatch.context() as patched:
            patched.setattr(Store, "find", fail)
            patched.setattr(Store, "counts", fail)
            await fill(site.store, 1)
            await line.event("prune")
        (mail_id,) = await fill(site.store, 1)
        assert (await line.event("new"))["Data"]["ID"] == mail_id
        assert (await line.event("stats"))["Data"]["Total"] == 2


@in_loop
async def test_errors_are_bounded() -> None:
    async with desk() as site, websocket(site) as line:
        await line.event("stats")
        for number in range(10_000):
            site.hub.report_error("rejected", "192.0.2.1", f"550 {number}")
        await fill(site.store, 1)
        count = 0
        while (await line.event("error", "new"))["Type"] == "error":
            count += 1
        assert count < MOST_BEHIND


# -- Server-Sent Events ----------------------------------------------------------------------------


async def text_of(line: Line, until: str) -> str:
    """Return what a stream has sent, up to the line that contains `until`."""
    text = ""
    while until not in text:
        text += (await line.message()).get("body", b"").decode()
    return text


@in_loop
async def test_a_stream_of_events() -> None:
    async with desk() as site, stream(site) as line:
        start = await line.message()
        assert start["status"] == 200
        assert (b"content-type", b"text/event-stream") in start["headers"]
        text = await text_of(line, "stats")
        assert text == f"id: {site.store.newest_change}\n{text.partition(chr(10))[2]}"
        (mail_id,) = await fill(site.store, 1)
        text = await text_of(line, mail_id)
        assert text.startswith(f"id: {site.store.newest_change}\ndata: {{")
        assert text.endswith("}\n\n")


@in_loop
async def test_a_client_that_comes_back_gets_what_it_has_missed() -> None:
    async with desk() as site:
        ids = await fill(site.store, 3)
        after = site.store.newest_change
        ids += await fill(site.store, 2)
        await site.store.mark(read=True, ids=ids[:2])
        await site.store.delete(ids=[ids[4]])
        async with stream(site, after) as line:
            found = [await line.event() for _ in range(5)]
        kinds = [event["Type"] for event in found]
        assert kinds == ["new", "update", "update", "delete", "stats"]
        assert found[0]["Data"]["ID"] == ids[3]  # the other one is gone
        async with stream(site, site.store.newest_change) as line:
            assert (await line.event())["Type"] == "stats"


@pytest.mark.parametrize("last", ["0", "x", "-1", "9" * 40, "18446744073709551616", "²", "1 2"])
@in_loop
async def test_a_number_that_is_not_known_is_a_reload(last: str) -> None:
    async with desk() as site:
        await fill(site.store, 1)
        line = Line(site, STREAM)
        line.scope["headers"].append((b"last-event-id", last.encode()))
        async with line:
            assert await line.event() == {"Type": "reload", "Data": None}
            assert (await line.event())["Type"] == "stats"


@in_loop
async def test_no_change_is_missed_or_sent_twice_while_a_stream_begins() -> None:
    async with desk(keep=0) as site:
        await fill(site.store, 1)
        after = site.store.newest_change
        filling = asyncio.ensure_future(fill(site.store, 200))
        seen: list[str] = []
        async with stream(site, after) as line:
            while len(seen) < 200:
                event = await line.event("new", "reload")
                seen.append(event["Data"]["ID"])
        assert sorted(seen) == sorted(await filling)


@in_loop
async def test_a_head_request_does_not_wait() -> None:
    async with desk() as site:
        answer = await browser(site).head(STREAM)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream"
        assert site.hub.listeners == 0


@in_loop
async def test_a_stream_ends_when_its_client_leaves() -> None:
    async with desk() as site, stream(site) as line:
        await line.event("stats")
        line.leave()
        await line.ended()
        assert site.hub.listeners == 0
