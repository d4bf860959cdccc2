"""The inbox over HTTP: next to SMTP in one loop, mounted in an application, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import smtplib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from ehlo import Handler, Server, Session
from ehlo.inbox import Catcher, WebOptions
from ehlo.inbox.serving import WebCertificate
from support.certificates import Certificates
from support.ports import reserved_port
from support.serving import Serve
from support.storing import in_loop

DEADLINE = 60.0
MAIL = b"Subject: hello\r\n\r\ntext\r\n"


def send(address: Any, mail: bytes = MAIL) -> None:
    with smtplib.SMTP(*address) as client:
        client.sendmail("a@x.example", ["b@y.example"], mail)


def fetched(url: str, context: ssl.SSLContext | None = None) -> Any:
    # httpx would load the authorities of the system, also for a URL without TLS: 28 ms
    answer = httpx.get(url, timeout=DEADLINE, verify=context or False)
    answer.raise_for_status()
    return answer.json()


def subjects(url: str, context: ssl.SSLContext | None = None) -> list[str]:
    return [mail["Subject"] for mail in fetched(f"{url}/api/v1/messages", context)["messages"]]


def test_mail_that_came_by_smtp_is_there_by_http(serve: Serve, loop_name: str) -> None:
    catcher = Catcher(web="127.0.0.1:0")
    running = serve(catcher, loop=loop_name)
    send(running.address)
    assert subjects(catcher.url) == ["hello"]
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert handlers == (signal.SIG_DFL, signal.default_int_handler)


def test_a_mail_of_50_mb_is_taken_and_shown(serve: Serve) -> None:
    catcher = Catcher(web="127.0.0.1:0")
    running = serve(catcher, max_size=104_857_600, transcripts="masked")
    line = b"QUJD" * 19 + b"\r\n"
    mail = (
        b"Subject: large\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\ntext\r\n"
        b"--b\r\nContent-Type: application/pdf; name=a.pdf\r\n"
        b"Content-Disposition: attachment\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + line * (50_000_000 // len(line))
        + b"--b--\r\n"
    )
    send(running.address, mail)
    message = fetched(f"{catcher.url}/api/v1/message/latest")
    assert message["Text"] == "text"
    (attachment,) = message["Attachments"]
    assert attachment["Size"] == 50_000_000 // len(line) * 57
    assert message["Size"] == len(mail)
    page = httpx.get(f"{catcher.url}/view/{message['ID']}", timeout=DEADLINE)
    assert "a.pdf" in page.text


def test_all_is_below_the_root(serve: Serve) -> None:
    catcher = Catcher(web="127.0.0.1:0", options=WebOptions(root="/mail"))
    running = serve(catcher)
    send(running.address)
    assert catcher.url.endswith("/mail")
    assert subjects(catcher.url) == ["hello"]
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        fetched(f"{catcher.url.removesuffix('/mail')}/api/v1/messages")


def test_https(serve: Serve, certificates: Certificates) -> None:
    files = WebCertificate(certificates.cert_file, certificates.key_file)
    catcher = Catcher(web="localhost:0", certificate=files)
    running = serve(catcher)
    send(running.address)
    assert catcher.url.startswith("https://")
    assert subjects(catcher.url, certificates.client) == ["hello"]


@pytest.mark.parametrize("foreign", [True, False])
def test_a_websocket_that_is_rejected_is_no_error(
    serve: Serve, foreign: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A foreign page could write as many lines to the log as it likes."""
    options = WebOptions(check=lambda _user, _password: False)
    catcher = Catcher(web="127.0.0.1:0", options=options)
    serve(catcher)
    head = f"{WEBSOCKET}\r\nHost: 127.0.0.1\r\n" + "Origin: http://evil.test\r\n" * foreign
    received = b""
    with socket.create_connection(_where(catcher.url), DEADLINE) as sock:
        sock.sendall(f"{head}\r\n".encode())
        while more := sock.recv(4_096):
            received += more
    assert received.startswith(b"HTTP/1.1 403 " if foreign else b"HTTP/1.1 401 ")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_no_header_gives_a_client_another_address(serve: Serve) -> None:
    """Otherwise a client on this machine may guess passwords without end."""
    options = WebOptions(check=lambda _user, _password: False)
    catcher = Catcher(web="127.0.0.1:0", options=options)
    serve(catcher)
    with httpx.Client(base_url=catcher.url, timeout=DEADLINE) as client:

        def guess(number: int) -> int:
            header = {"X-Forwarded-For": f"192.0.2.{number}"}
            return client.get("/", auth=("user", str(number)), headers=header).status_code

        assert [guess(number) for number in range(11)] == [401] * 10 + [429]


# -- the end ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def connected(url: str, head: str) -> Iterator[socket.socket]:
    """Send the head of a request, and read the first bytes of the answer."""
    _, _, host, port = url.replace("//", ":").split(":")
    with socket.create_connection((host, int(port)), DEADLINE) as sock:
        sock.sendall(f"{head}\r\nHost: {host}:{port}\r\n\r\n".encode())
        assert sock.recv(4_096)
        yield sock


EVENTS = "GET /api/v1/events HTTP/1.1"
WEBSOCKET = (
    "GET /api/events HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
)


@pytest.mark.parametrize("head", [EVENTS, WEBSOCKET])
def test_the_end_does_not_wait_for_those_who_listen(
    serve: Serve, head: str, caplog: pytest.LogCaptureFixture
) -> None:
    catcher = Catcher(web="127.0.0.1:0")
    with contextlib.ExitStack() as stack:
        with Server(catcher, addr="127.0.0.1:0", grace=DEADLINE).in_thread():
            open_ones = [stack.enter_context(connected(catcher.url, head)) for _ in range(3)]
            half = stack.enter_context(socket.create_connection(_where(catcher.url), DEADLINE))
            half.sendall(b"GET /half HTTP/1.1\r\n")
        for sock in [*open_ones, half]:
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(4_096):
                    pass
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def _where(url: str) -> tuple[str, int]:
    host, _, port = url.partition("//")[2].rpartition(":")
    return host, int(port)


def test_the_end_closes_the_store_and_the_port(serve: Serve) -> None:
    catcher = Catcher(web=f"127.0.0.1:{reserved_port()}")
    with Server(catcher, addr="127.0.0.1:0").in_thread():
        desk: Any = catcher.desk
        path, where = desk.store.path, _where(catcher.url)
    assert catcher.desk is None
    assert catcher.url == ""
    with pytest.raises(FileNotFoundError):
        Path(path).stat()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(where)


def test_a_server_starts_again(tmp_path: Any) -> None:
    catcher = Catcher(store=str(tmp_path / "mail.db"), web="127.0.0.1:0")
    server = Server(catcher, addr="127.0.0.1:0")
    for count in (1, 2):
        with server.in_thread():
            send(server.addresses[0])
            assert len(subjects(catcher.url)) == count


class Unlucky(Handler):
    async def on_message(self, session: Session, message: Any) -> None: ...

    async def on_startup(self, server: Any) -> None:
        raise LookupError("no database")


def test_a_start_that_fails_leaves_nothing() -> None:
    catcher = Catcher(Unlucky(), web="127.0.0.1:0")
    server = Server(catcher, addr="127.0.0.1:0")
    with contextlib.ExitStack() as stack:
        with pytest.raises(LookupError):
            stack.enter_context(server.in_thread())
        assert catcher.url == ""


def test_the_hooks_of_the_handler_are_called_at_the_start_and_the_end() -> None:
    called = []

    class Noting(Handler):
        async def on_message(self, session: Session, message: Any) -> None: ...

        def on_startup(self, server: Any) -> None:
            called.append("start")

        async def on_disconnect(self, session: Session) -> None:
            called.append("disconnect")

        async def on_shutdown(self, server: Any) -> None:
            called.append("end")

    server = Server(Catcher(Noting()), addr="127.0.0.1:0")
    with server.in_thread():
        send(server.addresses[0])
    assert called == ["start", "disconnect", "end"]


# -- what clients may not do -----------------------------------------------------------------------


def test_a_header_is_bounded(serve: Serve) -> None:
    catcher = Catcher(web="127.0.0.1:0")
    serve(catcher)
    with socket.create_connection(_where(catcher.url), DEADLINE) as sock:
        sock.settimeout(DEADLINE)
        with contextlib.suppress(ConnectionError):
            sock.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 1_000_000)
        with contextlib.suppress(ConnectionError):
            assert sock.recv(4_096).startswith(b"HTTP/1.1 400 ") or not sock.recv(1)


# -- mounted ---------------------------------------------------------------------------------------


@in_loop
async def test_it_can_be_mounted_in_an_application() -> None:
    catcher = Catcher()
    app = Starlette(routes=[Mount("/mail", app=catcher.asgi)])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        assert (await client.get("/mail/api/v1/messages")).status_code == 503
        server = Server(catcher, addr="127.0.0.1:0")
        async with server:
            await asyncio.to_thread(send, server.addresses[0])
            found = (await client.get("/mail/api/v1/messages")).json()
            assert [mail["Subject"] for mail in found["messages"]] == ["hello"]
            one = await client.get("/mail/inbox/default/api/v1/messages")
            assert one.json()["total"] == 1
            page = (await client.get("/mail/")).text
            assert 'href="/mail/' in page
            assert 'href="/assets' not in page
            assert 'src="/assets' not in page
        assert (await client.get("/mail/livez")).status_code == 503


@in_loop
async def test_it_is_an_application_itself() -> None:
    catcher = Catcher()
    said: list[Any] = []
    events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Any:
        return next(events)

    async def send(message: Any) -> None:
        said.append(message)

    await catcher.asgi({"type": "lifespan"}, receive, send)
    assert [each["type"] for each in said] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    await catcher.asgi({"type": "websocket", "path": "/api/events"}, receive, send)
    assert said[-1] == {"type": "websocket.close", "code": 1013}


def test_sessions_without_mail_are_in_the_api(serve: Serve) -> None:
    catcher = Catcher(web="127.0.0.1:0")
    running = serve(catcher, transcripts="masked")
    for name in ("one", "two"):
        with running.client() as client:
            client.reply()
            client.say(f"HELO {name}")
            client.say("QUIT")
    running.wait_until_no_sessions()
    url = f"{catcher.url}/api/v1/sessions"
    first, second = fetched(url)["sessions"]
    assert [each["Facts"]["helo"] for each in (first, second)] == ["two", "one"]
    assert [line["Text"] for line in first["Lines"] if line["Direction"] == "client"] == [
        "HELO two",
        "QUIT",
    ]
    assert fetched(f"{url}?before={first['Number']}&limit=5")["sessions"] == [second]
    assert fetched(f"{url}?limit=1&before=x")["sessions"] == [first]
    assert fetched(f"{catcher.url}/inbox/other/api/v1/sessions") == {"sessions": []}
    assert httpx.delete(url).text == "ok"
    assert fetched(url) == {"sessions": []}


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_silent_connection_is_closed(
    serve: Serve, loop_name: str, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some hundreds of them would keep all others out."""
    monkeypatch.setattr("ehlo.inbox.serving.SILENT", 0.01, raising=False)
    catcher = Catcher(web="127.0.0.1:0")
    serve(catcher, loop=loop_name)
    host, _, port = catcher.url.removeprefix("http://").rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=DEADLINE) as client,
        contextlib.suppress(ConnectionError),  # it may be closed before all of it is read
    ):
        client.sendall(begun)
        assert client.recv(100) == b""


LIVEZ = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@contextlib.contextmanager
def answered(url: str) -> Iterator[socket.socket]:
    """Connect, and receive the response to a first request."""
    with socket.create_connection(_where(url), DEADLINE) as sock:
        sock.sendall(LIVEZ)
        assert sock.recv(4_096).startswith(b"HTTP/1.1 200 ")
        yield sock


def test_a_connection_that_falls_silent_after_a_response_is_closed(
    serve: Serve, loop_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    catcher = Catcher(web="127.0.0.1:0")
    serve(catcher, loop=loop_name)
    with answered(catcher.url) as sock:
        monkeypatch.setattr("ehlo.inbox.serving.SILENT", 0.3)
        sock.sendall(LIVEZ)
        assert sock.recv(4_096).startswith(b"HTTP/1.1 200 ")
        with contextlib.suppress(ConnectionError):
            sock.sendall(b"GET /half HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            assert sock.recv(4_096) == b""


WAIT = "GET /api/v1/search/wait?query=subject:hello HTTP/1.1"


@pytest.mark.parametrize("head", [EVENTS, WEBSOCKET, WAIT])
def test_a_request_that_is_being_answered_is_not_silent(
    serve: Serve, loop_name: str, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    catcher = Catcher(web="127.0.0.1:0")
    running = serve(catcher, loop=loop_name)
    with answered(catcher.url) as sock:
        monkeypatch.setattr("ehlo.inbox.serving.SILENT", 0.3)
        # In one piece: the second request is there when the timer starts
        sock.sendall(LIVEZ + f"{head}\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert sock.recv(4_096).startswith(b"HTTP/1.1 200 ")
        with socket.create_connection(_where(catcher.url), DEADLINE) as later:
            assert later.recv(100) == b""  # so the timer of the first one has fired, too
        send(running.address)
        received = b""
        while b"hello" not in received:
            more = sock.recv(4_096)
            assert more
            received += more
