"""Releases: what the other server gets, and what is said when it does not take it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from ehlo import Address, Handler, Message, PasswordCredentials, Reject, Server, Session
from ehlo.inbox.desk import WebOptions
from ehlo.inbox.live import relaying
from ehlo.inbox.live.relaying import outgoing
from ehlo.inbox.relay import Relay
from ehlo.store import Delivery
from support.certificates import make_certificates
from support.ports import reserved_port
from support.sites import browser, desk
from support.storing import in_loop

MAIL = (
    b"Bcc: hidden@x.test,\r\n\tother@x.test\r\nbCC : third@x.test\r\n"
    b"From: Anna <anna@x.test>, Bob <bob@x.test>\r\nTo: b@y.test\r\nSubject: hello\r\n"
    b"Date: Mon, 1 Jan 2024 00:00:00 +0000\r\nMessage-ID: <old@x.test>\r\n"
    b"Return-Path: <r@x.test>\r\n"
    b"X-Kept: one\r\n two\r\n\r\nBcc: in the body\r\n.\r\nline\r\n"
)


@dataclass
class Target(Handler):
    """A server that takes what is released to it."""

    got: list[tuple[str, list[str], bytes]] = field(default_factory=list)
    params: list[dict[str, Any]] = field(default_factory=list)
    tls: list[bool] = field(default_factory=list)
    user: list[str | None] = field(default_factory=list)

    async def on_auth(self, session: Session, credentials: object) -> str | None:
        assert isinstance(credentials, PasswordCredentials)
        right = (credentials.username, credentials.password) == ("a b", "p:w/d")
        return credentials.username if right else None

    async def on_rcpt(self, session: Session, recipient: Address, params: object) -> None:
        if recipient.local == "gone":
            raise Reject(550, "5.1.1", "No such user\nhere")

    async def on_message(self, session: Session, message: Message) -> None:
        sender, recipients = str(message.sender), list(map(str, message.recipients))
        self.got.append((sender, recipients, message.body))
        self.params.append(dict(message.sender.params))
        self.tls.append(session.tls is not None)
        self.user.append(session.user)


@contextlib.asynccontextmanager
async def relay(handler: Handler, scheme: str = "smtp", **options: Any) -> AsyncIterator[str]:
    async with Server(handler, addr="127.0.0.1:0", **options) as server:
        yield f"{scheme}://127.0.0.1:{server.addresses[0].port}"


async def release(client: httpx.AsyncClient, *to: str, path: str = "latest") -> tuple[int, str]:
    answer = await client.post(f"/api/v1/message/{path}/release", json={"To": list(to)}, timeout=60)
    return answer.status_code, answer.text


@in_loop
async def test_the_other_server_gets_the_message_without_bcc_for_new_recipients() -> None:
    target = Target()
    async with relay(target) as url, desk(relay=url) as site:
        mail_id = await site.store.put(Delivery(MAIL, "bounce@x.test", ["b@y.test"]))
        client = browser(site)
        found = await release(client, "a@z.test", "Bea <b@z.test>", " a@z.test ", "", path=mail_id)
        assert found == (200, "ok")
        ((sender, recipients, body),) = target.got
        assert (sender, recipients) == ("anna@x.test", ["a@z.test", "b@z.test"])
        head, _, text = body.partition(b"\r\n\r\n")
        names = [line.partition(b":")[0] for line in head.split(b"\r\n") if line[:1] != b" "]
        assert names == [b"Date", b"Message-ID", b"From", b"To", b"Subject", b"X-Kept"]
        assert b"Jan 2024" not in head
        assert b"old@x.test" not in head
        assert b"X-Kept: one\r\n two" in head
        assert text == b"Bcc: in the body\r\n.\r\nline\r\n"
        stored = await site.store.get(mail_id)
        assert stored is not None
        assert stored.data == MAIL


@in_loop
async def test_the_sender_is_the_one_who_sent_it() -> None:
    target = Target()
    cases = [
        (b"Sender: s@x.test\r\nFrom: f@x.test\r\n\r\n", "s@x.test"),
        (b"From: not an address\r\n\r\n", "bounce@x.test"),
        (b"From: <a@x.test>\r\n SIZE=1\r\nSubject: x\r\n\r\n", "a@x.test"),
        (b"From: a@x.test\rMAIL FROM:<b@x.test>\r\n\r\n", "b@x.test"),
    ]
    async with relay(target) as url, desk(relay=url) as site:
        for message, sender in cases:
            await site.store.put(Delivery(message, "bounce@x.test"))
            assert (await release(browser(site), "a@z.test"))[0] == 200
            assert target.got[-1][0] == sender


@in_loop
async def test_an_address_that_is_none_is_named() -> None:
    target = Target()
    bad = (
        *("bad", "@z.test", "a@", "a b@z.test", "a@z.test\r\nRCPT TO:<evil@x.test>", "a@z.test\0"),
        *("<a@z.test", "a@z.test> SIZE=1", "a@z.test,b@z.test", '"a@z.test', "a" * 70 + "@z.test"),
        "\u202ea@z.test",
    )
    async with relay(target) as url, desk(relay=url) as site:
        client = browser(site)
        await site.store.put(Delivery(MAIL))
        for text in bad[:-1]:
            status, answer = await release(client, "a@z.test", text)
            assert (status, answer[:23]) == (400, "Invalid email address: "), text
            assert not set("\r\n\0") & set(answer)
        for none in ([], [""], [" ", ""]):
            assert await release(client, *none) == (400, "No valid addresses found")
        assert (await release(client, *(f"{number}@z.test" for number in range(101))))[0] == 400
        assert (await release(client, "a@z.test", path="x" * 22)) == (404, "404 page not found")
        bomb = await client.post("/api/v1/message/latest/release", content=b"[" * 100_000)
        assert bomb.status_code == 400
        assert target.got == []


@in_loop
async def test_without_a_server_nothing_is_released() -> None:
    async with desk() as site:
        await site.store.put(Delivery(MAIL))
        status, text = await release(browser(site), "a@z.test")
        assert (status, text) == (
            400,
            "SMTP error: no server to release to; start ehlo with --relay",
        )


@in_loop
async def test_one_recipient_that_is_rejected_is_none_at_all() -> None:
    target = Target()
    async with relay(target) as url, desk(relay=url) as site:
        await site.store.put(Delivery(MAIL))
        status, text = await release(browser(site), "a@z.test", "gone@z.test")
        assert status == 400
        assert text.startswith("SMTP error: 550 5.1.1 No such user")
        assert "\n" not in text
        assert target.got == []


@in_loop
async def test_letters_that_are_not_ascii() -> None:
    target = Target()
    async with relay(target) as url, desk(relay=url) as site:
        await site.store.put(Delivery("From: a@x.test\r\n\r\nGrüße\r\n".encode()))
        assert await release(browser(site), "jörg@z.test") == (200, "ok")
        assert target.got[0][1] == ["jörg@z.test"]
        assert target.got[0][2].endswith("Grüße\r\n".encode())
        assert target.params[0].keys() >= {"SMTPUTF8", "BODY"}
    async with relay(target, extensions={"SMTPUTF8": False}) as url, desk(relay=url) as site:
        await site.store.put(Delivery(MAIL))
        status, text = await release(browser(site), "jörg@z.test")
        assert (status, text) == (400, "SMTP error: 127.0.0.1 takes no address that is not ASCII")


@in_loop
async def test_a_server_that_hangs_or_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaying, "_PATIENCE", 0.05)
    port = reserved_port()
    with socket.create_server(("127.0.0.1", port)):  # which accepts no client
        async with desk(relay=f"smtp://127.0.0.1:{port}") as site:
            await site.store.put(Delivery(MAIL))
            found = await release(browser(site), "a@z.test")
            assert found == (400, "SMTP error: 127.0.0.1 did not answer in time")
    async with desk(relay=f"smtp://127.0.0.1:{port}") as site:
        await site.store.put(Delivery(MAIL))
        status, text = await release(browser(site), "a@z.test")
        assert (status, text[:11]) == (400, "SMTP error:")


@in_loop
async def test_few_messages_are_released_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with desk(relay=f"smtp://127.0.0.1:{silent.getsockname()[1]}") as site:
            await site.store.put(Delivery(MAIL))
            client = browser(site)
            tasks = [asyncio.ensure_future(release(client, "a@z.test")) for _ in range(20)]
            waits = asyncio.as_completed(tasks)
            for _ in range(12):
                assert (await next(waits))[0] == 503
            assert sum(task.done() for task in tasks) == 12
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@in_loop
async def test_tls_is_used_if_it_is_offered(tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    target = Target()
    tls = {"tls_cert": files.cert_file, "tls_key": files.key_file}
    async with relay(target, **tls) as url, desk(relay=url) as site:
        await site.store.put(Delivery(MAIL))
        assert await release(browser(site), "a@z.test") == (200, "ok")
        assert target.tls == [True]  # although no one here trusts its certificate


@pytest.mark.parametrize("trusted", [True, False])
@in_loop
async def test_a_password_is_sent_to_a_server_that_is_trusted(
    trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make_certificates(tmp_path)
    real = ssl.create_default_context
    known = files.authority_file if trusted else None
    monkeypatch.setattr(ssl, "create_default_context", lambda: real(cafile=known))
    target = Target()
    options: dict[str, Any] = {
        "tls_cert": files.cert_file,
        "tls_key": files.key_file,
        "auth_required": True,
    }
    async with relay(target, **options) as url:
        login = url.replace("//", "//a%20b:p%3Aw%2Fd@")
        async with desk(relay=login) as site:
            await site.store.put(Delivery(MAIL))
            status, text = await release(browser(site), "a@z.test")
            assert status == (200 if trusted else 400), text
            assert target.user == (["a b"] if trusted else [])
            assert "p:w" not in text


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://relay.test", ("relay.test", 25, "", "", False)),
        ("smtp://relay.test:2525/", ("relay.test", 2525, "", "", False)),
        ("smtps://u:p@[::1]", ("::1", 465, "u", "p", True)),
        ("smtp://u%40x:p%3A@relay.test", ("relay.test", 25, "u@x", "p:", False)),
    ],
)
def test_the_url_of_a_server(url: str, expected: tuple[object, ...]) -> None:
    found = Relay.of(url)
    assert tuple(found) == expected
    assert "p:" not in repr(found)
    assert "smtp:" not in repr(WebOptions(relay="smtp://u:p@relay.test"))


def test_a_password_needs_tls_beyond_loopback() -> None:
    assert Relay.of("smtp://u:p@relay.test").must_have_tls
    assert not Relay.of("smtps://u:p@relay.test").must_have_tls
    assert not Relay.of("smtp://u:p@127.0.0.1").must_have_tls
    assert not Relay.of("smtp://relay.test").must_have_tls


@pytest.mark.parametrize(
    "url",
    [
        *("relay.test", "http://x", "smtp://", "smtp://x:y", "smtp://x:99999", "smtp://secret@x"),
        *("smtp://u:secret@x/path", "smtp://u:secret@x?tls=0", "smtp://[x", "smtp://:secret@x"),
    ],
)
def test_a_url_that_is_none_is_an_error_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"relay: .*; write smtp://") as caught:
        Relay.of(url)
    assert "secret" not in str(caught.value)


def test_a_header_that_is_broken_is_passed_on() -> None:
    for message in (
        b"",
        b"\r\n",
        b"no header at all",
        b" Bcc: folded\r\n\r\nx",
        b"\0\r\nBcc: x\r\n\r\n",
    ):
        assert outgoing(message).startswith(b"Date: ")
    assert b"hidden" not in outgoing(b"Bcc: hidden@x.test\n\nbody\n")
    assert b"hidden" not in outgoing(b"BCC:\n hidden@x.test\n\thidden\n\nbody\n")
