"""Facts about the inbox itself, and whether it works."""

from __future__ import annotations

import asyncio
from importlib.metadata import version

from ehlo.inbox import WebOptions
from ehlo.store import Delivery
from support.inboxes import inbox
from support.storing import in_loop, mail


@in_loop
async def test_info_has_exactly_the_fields_of_mailpit() -> None:
    tagged = Delivery(mail(), tags=["b", "a"], inbox="one")
    async with inbox(tagged, Delivery(mail(), tags=["b"])) as (store, api):
        await api.delete("/inbox/none/api/v1/messages")
        info = (await api.get("/api/v1/info")).json()
        stats = info.pop("RuntimeStats")
        assert info == {
            "Version": version("ehlo"),
            "LatestVersion": "disabled",
            "Database": store.path,
            "DatabaseSize": await store.size(),
            "Messages": 2,
            "Unread": 2,
            "Tags": {"a": 1, "b": 2},
        }
        assert set(stats) == {
            *("Uptime", "Memory", "MessagesDeleted", "SMTPAccepted", "SMTPAcceptedSize"),
            *("SMTPRejected", "SMTPIgnored"),
        }
        assert stats["MessagesDeleted"] == 0
        assert (await api.get("/inbox/one/api/v1/info")).json()["Tags"] == {"a": 1, "b": 1}
        await api.delete("/api/v1/messages")
        stats = (await api.get("/api/v1/info")).json()["RuntimeStats"]
        assert stats["MessagesDeleted"] == 2


@in_loop
async def test_the_pages_are_told_whether_there_is_a_relay() -> None:
    options = WebOptions(label="<test>", relay="smtp://user:secret@relay.test:2525")
    async with inbox(options=options) as (_, api):
        answer = await api.get("/api/v1/webui")
        settings = answer.json()
        assert settings["Label"] == "<test>"
        assert settings["MessageRelay"]["Enabled"] is True
        assert settings["MessageRelay"]["SMTPServer"] == "relay.test:2525"
        assert "secret" not in answer.text
    async with inbox() as (_, api):
        relay = (await api.get("/api/v1/webui")).json()["MessageRelay"]
        assert (relay["Enabled"], relay["SMTPServer"]) == (False, "")


@in_loop
async def test_an_inbox_is_ready_as_long_as_its_store_answers() -> None:
    async with inbox() as (store, api):
        for path, status in (("/livez", 200), ("/readyz", 200)):
            answer = await api.get(path)
            assert (answer.status_code, answer.content) == (status, b"")
            assert "content-type" not in answer.headers
        await asyncio.to_thread(store.close)
        assert (await api.get("/livez")).status_code == 200
        assert (await api.get("/readyz")).status_code == 503
        answer = await api.get("/api/v1/messages")
        assert answer.status_code == 503
        assert answer.text == "The store does not answer; see the log"
