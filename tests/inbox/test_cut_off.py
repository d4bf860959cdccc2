"""Responses that cannot be completed, and clients that misuse a connection.

The connection is cut, and the log has one line at most: no client of the inbox can cause a
traceback.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import smtplib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from ehlo import Handler, Server
from ehlo.inbox import Catcher, Desk, guard, make_site, serving
from ehlo.inbox.live import hub
from ehlo.inbox.live.hub import MOST_BEHIND
from ehlo.store import Delivery, StoredMail
from support.sites import Line, desk
from support.storing import in_loop

DEADLINE = 60.0
LARGE = (
    b"Subject: large\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: application/pdf; name=a\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\n" + (b"QUJD" * 19 + b"\r\n") * 100_000 + b"--b--\r\n"
)
TEXT = b"Subject: large\r\n\r\n" + (b"x" * 76 + b"\r\n") * 150_000


def deleting(site: Desk, *, at_once: bool) -> Any:
    """Return what reads a message in chunks, which is deleted before or after the first one."""
    whole = site.store.chunks

    async def chunks(mail: StoredMail, *place: int) -> AsyncIterator[bytes]:
        if at_once:
            await site.store.delete(ids=[mail.id])
        async for chunk in whole(mail, *place):
            yield chunk
            await site.store.delete(ids=[mail.id])

    return chunks


# -- without a socket ------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
@pytest.mark.parametrize("spec", ["2.3", "2.4"])
@pytest.mark.parametrize("path", ["/api/v1/message/x/raw", "/inbox/a/api/v1/message/x/part/1"])
@in_loop
async def test_a_mail_that_is_deleted_while_it_is_read_ends_the_response(
    path: str,
    spec: str,
    encoding: str,
    at_once: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with desk() as site:
        await site.store.put(Delivery(LARGE, id="x", inbox="a"))
        monkeypatch.setattr(site.store, "chunks", deleting(site, at_once=at_once))
        app = Starlette(routes=[Mount("/mail", make_site(site))])
        line = Line(app, f"/mail{path}", headers={"Accept-Encoding": encoding})
        line.scope["asgi"]["spec_version"] = spec
        async with line:
            assert (await line.message())["status"] == 200
            await line.ended()
            while line.has_more:
                assert (await line.message())["more_body"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.exc_info is None
    text = record.getMessage()
    assert text.startswith(f"a response was cut off: path='/mail{path}' error=")
    assert text.endswith("the message was deleted")


@pytest.mark.parametrize("path", ["/api/v1/events", "/inbox/a/api/v1/events"])
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
@pytest.mark.parametrize("is_large", [True, False])
@in_loop
async def test_a_body_that_is_too_large_or_too_slow_ends_the_events(
    path: str, encoding: str, is_large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk(max_size=1) as site:
        if not is_large:
            monkeypatch.setattr(guard, "_SLOW", 0.01)
        line = Line(site, path, headers={"Accept-Encoding": encoding}, has_body=True)
        async with line:
            if is_large:
                line.send_body(b"x" * 8_388_609)
            await line.ended()
        assert site.hub.listeners == 0


# -- by HTTP ---------------------------------------------------------------------------------------

HEAD = "HTTP/1.1\r\nHost: 127.0.0.1\r\n"
CHUNKED = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n"
WEBSOCKET = (
    f"GET /api/events {HEAD}Connection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@contextlib.contextmanager
def shown(catcher: Catcher, caplog: pytest.LogCaptureFixture) -> Iterator[Server]:
    """Run a catcher; the log must have no error at its end."""
    with Server(catcher, addr="127.0.0.1:0", grace=DEADLINE).in_thread() as server:
        yield server
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@contextlib.contextmanager
def asked(catcher: Catcher, request: str, *, buffer: int = 0) -> Iterator[socket.socket]:
    """Send a request, on a connection that holds only `buffer` bytes which are not read yet."""
    host, _, port = catcher.url.removeprefix("http://").rpartition(":")
    with socket.socket() as sock:
        sock.settimeout(DEADLINE)
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.connect((host, int(port)))
        sock.sendall(request.encode())
        yield sock


def rest_of(sock: socket.socket) -> bytes:
    """Return what comes until the end of a connection."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while more := sock.recv(1 << 16):
            found += more
    return found


def read_until(sock: socket.socket, text: bytes) -> None:
    """Read until this text has come; the head and the body of a response come one by one."""
    found = b""
    while text not in found:
        more = sock.recv(1 << 16)
        assert more, found
        found += more


@pytest.mark.parametrize("path", ["raw", "part/1"])
def test_the_connection_of_a_mail_that_is_deleted_is_cut(
    path: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    catcher = Catcher(web="127.0.0.1:0")
    with shown(catcher, caplog) as server:
        with smtplib.SMTP(*server.addresses[0]) as client:
            client.sendmail("a@x.example", ["b@y.example"], LARGE)
        site: Any = catcher.desk
        monkeypatch.setattr(site.store, "chunks", deleting(site, at_once=False))
        with asked(catcher, f"GET /api/v1/message/latest/{path} {HEAD}\r\n") as sock:
            found = rest_of(sock)
    assert found.startswith(b"HTTP/1.1 200 ")
    assert len(found) < 300_000
    assert not found.endswith(b"0\r\n\r\n")
    assert len([each for each in caplog.records if each.levelno >= logging.WARNING]) == 1


@pytest.mark.parametrize(
    "request_line",
    [
        "GET /api/v1/events",  # its response does not end
        "POST /api/v1/nothing",  # it is answered before its body has come
        "DELETE /",
        "GET /livez",
    ],
)
def test_a_body_that_is_no_http_ends_a_response(
    request_line: str, caplog: pytest.LogCaptureFixture
) -> None:
    catcher = Catcher(web="127.0.0.1:0")
    with (
        shown(catcher, caplog),
        asked(catcher, f"{request_line} {CHUNKED}") as sock,
    ):
        assert sock.recv(4_096).startswith(b"HTTP/1.1 ")
        sock.sendall(b"no length\r\n")
        rest_of(sock)


@pytest.mark.parametrize(
    "request_line",
    ["DELETE /api/v1/tags/x", "GET /api/v1/search/wait", "POST /", "GET /api/v1/events"],
)
def test_a_body_that_is_no_http_is_answered_once(
    request_line: str, caplog: pytest.LogCaptureFixture
) -> None:
    catcher = Catcher(web="127.0.0.1:0")
    with (
        shown(catcher, caplog),
        asked(catcher, f"{request_line} {CHUNKED}no length\r\n") as sock,
    ):
        assert rest_of(sock).count(b"HTTP/1.1 400 ") == 1


@pytest.mark.parametrize("path", ["/api/v1/events", "/api/v1/message/latest/raw"])
def test_a_body_that_is_too_slow_cuts_a_response(
    path: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_SLOW", 0.3)
    catcher = Catcher(web="127.0.0.1:0")
    with shown(catcher, caplog) as server:
        with smtplib.SMTP(*server.addresses[0]) as client:
            client.sendmail("a@x.example", ["b@y.example"], LARGE)
        with asked(catcher, f"GET {path} {CHUNKED}5\r\nab", buffer=4_096) as sock:
            assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
            with asked(catcher, f"POST /api/v1/send {CHUNKED}5\r\nab") as later:
                read_until(later, b"the body took too long")
            rest_of(sock)


@pytest.mark.parametrize("frames", ["8182000000 00fffe", "0182000000 00fffe 8081000000 0041"])
def test_text_that_is_not_utf_8_is_no_error(frames: str, caplog: pytest.LogCaptureFixture) -> None:
    catcher = Catcher(web="127.0.0.1:0")
    with shown(catcher, caplog), asked(catcher, WEBSOCKET) as sock:
        assert sock.recv(4_096).startswith(b"HTTP/1.1 101 ")
        sock.sendall(bytes.fromhex(frames) + bytes.fromhex("8880 00000000"))
        rest_of(sock)


class Noting(Handler):
    """Notes the loop in which the hooks are called."""

    loop: asyncio.AbstractEventLoop

    async def on_startup(self, server: Any) -> None:
        self.loop = asyncio.get_running_loop()


def flood(site: Desk) -> None:
    """Tell all who listen of some errors."""
    for _ in range(MOST_BEHIND // 4):
        site.hub.report_error("rejected", "192.0.2.1", "x" * 20_000)


@pytest.mark.parametrize("request_text", [f"GET /api/v1/events {HEAD}\r\n", WEBSOCKET])
def test_a_client_that_does_not_read_loses_its_connection(
    request_text: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some hundreds of them would keep all others out."""
    monkeypatch.setattr(serving, "_MOST", 2)
    monkeypatch.setattr(serving, "_LAST", 0.1)
    monkeypatch.setattr(hub, "_MOST_ERRORS", 1_000_000)
    noting = Noting()
    catcher = Catcher(noting, web="127.0.0.1:0")
    with shown(catcher, caplog):
        site: Any = catcher.desk
        with (
            asked(catcher, request_text, buffer=4_096) as sock,
            httpx.Client(base_url=catcher.url, timeout=DEADLINE) as client,
        ):
            assert sock.recv(100)
            assert client.get("/livez").status_code == 503
            while site.hub.listeners:
                noting.loop.call_soon_threadsafe(flood, site)
                client.get("/livez")
            answers = (client.get("/livez").status_code for _ in range(20_000))
            assert 200 in answers  # once its connection has gone


@pytest.mark.parametrize("path", ["/api/v1/message/latest/raw", "/api/v1/message/latest"])
@pytest.mark.parametrize("more", ["", "Connection: close\r\n"])
def test_a_client_that_does_not_read_its_response_loses_its_connection(
    path: str, more: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of these responses is sent in pieces, and the other at once."""
    monkeypatch.setattr(serving, "_MOST", 2)
    monkeypatch.setattr(serving, "UNREAD", 0.05)
    catcher = Catcher(web="127.0.0.1:0")
    with shown(catcher, caplog) as server:
        with smtplib.SMTP(*server.addresses[0]) as client:
            client.sendmail("a@x.example", ["b@y.example"], TEXT)
        with asked(catcher, f"GET /livez {HEAD}\r\n", buffer=4_096) as sock:
            assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
            monkeypatch.setattr(serving, "SILENT", 0.05)
            sock.sendall(f"GET {path} {HEAD}{more}\r\n".encode())
            assert any(is_alive(catcher) for _ in range(20_000))  # its connection has gone


def is_alive(catcher: Catcher) -> bool:
    with asked(catcher, f"GET /livez {HEAD}Connection: close\r\n\r\n") as sock:
        return rest_of(sock).startswith(b"HTTP/1.1 200 ")
