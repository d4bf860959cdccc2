"""STARTTLS and implicit TLS: facts of the session, state that is reset, rejected handshakes."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

import ehlo
from ehlo import Handler, Message, Server, Session
from ehlo.protocol.state import State
from ehlo.server.options.rules import resolve
from ehlo.server.options.target import callbacks_of
from ehlo.server.tls.certificates import Certificate, file_context
from support.certificates import PASSPHRASE, Certificates
from support.client import Client, note_sends
from support.clock import StoppedClock
from support.hooks import KINDS, Noted, handler_of
from support.logins import cram_md5, login, plain
from support.serving import DEADLINE, Box, Collector, Serve


def accept(*_: Any) -> bool:
    return True


def starttls(client: Client, certificates: Certificates) -> ssl.SSLSocket:
    """Play a session from the greeting to the end of the handshake."""
    client.hello()
    assert client.say("STARTTLS") == "220 2.0.0 Ready to start TLS"
    return client.wrap(certificates.client)


# -- both forms ----------------------------------------------------------------------------------


def test_starttls_is_offered_with_tls_and_not_again_under_it(
    serve: Serve, certificates: Certificates, loop_name: str
) -> None:
    running = serve(Box(), tls_config=certificates.server(), loop=loop_name)
    with running.client() as client:
        assert "250 STARTTLS" in client.hello().splitlines()
        client.say("STARTTLS")
        client.wrap(certificates.client)
        assert "STARTTLS" not in client.say("EHLO client.example")
        assert client.say("STARTTLS") == "503 5.5.1 TLS is already active"
        assert client.mail() == "250 2.0.0 Ok: queued"
        assert client.say("QUIT").startswith("221 ")
        assert client.is_closed()


def test_starttls_is_not_offered_without_tls(serve: Serve) -> None:
    with serve(Box()).client() as client:
        assert "STARTTLS" not in client.hello()
        assert client.say("STARTTLS") == "502 5.5.1 Command not implemented"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (False, "454 4.7.0 TLS not available due to local problem"),
        (ehlo.Reply(454, "4.7.0", "Later"), "454 4.7.0 Later"),
        (ehlo.Reject(501, "5.5.4", "No"), "501 5.5.4 No"),
        (ehlo.Reply(220, "2.0.0", "Go on"), "454 4.7.0 TLS not available due to local problem"),
        (ValueError("a bug"), "454 4.7.0 TLS not available due to local problem"),
    ],
)
def test_a_rejection_of_starttls_leaves_the_session_in_plaintext(
    serve: Serve, certificates: Certificates, kind: str, answer: object, reply: str
) -> None:
    running = serve(handler_of(kind, on_starttls=answer), tls_config=certificates.server())
    with running.client() as client:
        client.hello()
        assert client.say("STARTTLS") == reply
        assert client.mail() == "250 2.0.0 Ok: queued"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answer", [None, True])
def test_after_on_starttls_has_accepted_comes_the_handshake(
    serve: Serve, certificates: Certificates, kind: str, answer: object, loop_name: str
) -> None:
    noted = Noted()
    handler = handler_of(kind, noted, on_starttls=answer, on_tls=None)
    running = serve(handler, tls_config=certificates.server(), loop=loop_name)
    with running.client() as client:
        starttls(client, certificates)
        client.say("EHLO c")
        assert client.mail() == "250 2.0.0 Ok: queued"
    assert noted.names == ["on_starttls", "on_tls", "on_message"]


def test_a_client_that_never_begins_the_handshake_has_its_time_and_no_more(
    serve: Serve, certificates: Certificates
) -> None:
    handler = handler_of("async def", on_starttls=None)
    running = serve(handler, tls_config=certificates.server(), timeout=30.0)
    with running.client() as client:
        client.hello()
        client.say("STARTTLS")
        running.run(running.turn)  # the 220 leaves before the step is over
        (driver,) = running.drivers
        assert driver.deadline - running.runtime.loop.time() < 31  # and not that of a hook, 300


@pytest.mark.parametrize("answer", [ehlo.Disconnect(), lambda _: ehlo.Disconnect()])
def test_on_starttls_may_drop_the_connection(
    serve: Serve, certificates: Certificates, answer: object
) -> None:
    running = serve(handler_of("async def", on_starttls=answer), tls_config=certificates.server())
    with running.client() as client:
        client.hello()
        client.send(b"STARTTLS\r\n")
        assert client.is_closed()


def test_on_tls_may_drop_the_connection(serve: Serve, certificates: Certificates) -> None:
    handler = handler_of("async def", on_tls=ehlo.Disconnect())
    with serve(handler, tls_config=certificates.server()).client() as client:
        starttls(client, certificates)
        assert client.is_closed()


def test_what_a_client_sends_before_the_220_is_an_injection(
    serve: Serve, certificates: Certificates
) -> None:
    asked, sent = threading.Event(), threading.Event()

    def on_starttls(_session: Session) -> None:
        asked.set()
        assert sent.wait(DEADLINE)

    handler = handler_of("def", on_starttls=on_starttls)
    running = serve(handler, tls_config=certificates.server())
    with running.client() as client:
        client.hello()
        client.send(b"STARTTLS\r\n")
        assert asked.wait(DEADLINE)
        client.send(b"MAIL FROM:<evil@example.com>\r\n")
        running.wait_until_received(client)
        sent.set()
        assert client.is_closed()  # without a 220


def test_implicit_tls_shakes_hands_before_the_greeting(
    serve: Serve, certificates: Certificates, loop_name: str
) -> None:
    box = Box()
    running = serve(box, tls_config=certificates.server(), tls_listener=True, loop=loop_name)
    with running.client(tls=certificates.client) as client:
        assert client.reply() == "220 mx.example smtpd ESMTP Service ready"
        assert "STARTTLS" not in client.say("EHLO c")
        assert client.mail() == "250 2.0.0 Ok: queued"
    assert (
        b"\r\n\tby mx.example (smtpd) with ESMTPS\r\n\t(version=TLSv1.3 cipher=TLS_"
        in (box.mails[0][3])
    )


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("way", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_a_login_works_under_either_form(
    serve: Serve, certificates: Certificates, implicit: bool, way: str
) -> None:
    box = Box()
    running = serve(
        box,
        tls_config=certificates.server(),
        tls_listener=implicit,
        auth_handler=accept,
        auth_required=True,
    )
    with running.client(tls=certificates.client if implicit else None) as client:
        if not implicit:
            starttls(client, certificates)
        else:
            client.reply()
        assert "250 AUTH CRAM-MD5 LOGIN PLAIN" in client.say("EHLO c").splitlines()
        assert client.say("MAIL FROM:<a@example.com>").startswith("530 5.7.0 ")
        answer = {
            "PLAIN": lambda: client.say(plain("alice", "wonder")),
            "LOGIN": lambda: login(client, "alice", "wonder"),
            "CRAM-MD5": lambda: cram_md5(client, "alice", "wonder"),
        }[way]()
        assert answer == "235 2.7.0 Authentication successful"
        assert client.mail() == "250 2.0.0 Ok: queued"
    assert b" with ESMTPSA\r\n" in box.mails[0][3]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_session_has_the_version_and_the_cipher(
    serve: Serve, certificates: Certificates, version: ssl.TLSVersion
) -> None:
    collector = Collector()
    context = ssl.create_default_context()
    certificates.authority.configure_trust(context)
    context.minimum_version = context.maximum_version = version
    server = serve_with_files(serve, collector, certificates)
    with server.client() as client:
        client.hello()
        assert collector.sessions == []
        client.say("STARTTLS")
        tls = client.wrap(context)
        client.say("EHLO again")
        client.mail()
        cipher = tls.cipher()
        assert cipher is not None
    info = collector.sessions[0].tls
    assert info is not None
    assert info.version == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
    assert info.cipher == cipher[0]
    assert info.sni == "localhost"
    assert info.peer_certificate is None


def serve_with_files(serve: Serve, handler: Any, certificates: Certificates, **more: Any) -> Any:
    """Check a context that `configure_tls` would make."""
    context = file_context((Certificate(certificates.cert_file, certificates.key_file),))
    return serve(handler, tls_config=context, **more)


def test_the_session_has_the_certificate_that_the_client_shows(
    serve: Serve, certificates: Certificates
) -> None:
    collector = Collector()
    server = certificates.server()
    server.verify_mode = ssl.CERT_REQUIRED
    certificates.authority.configure_trust(server)
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    certificates.authority.configure_trust(own)
    own.load_cert_chain(certificates.cert_file, certificates.key_file)
    running = serve(collector, tls_config=server, tls_listener=True)
    with running.client(tls=own) as client:
        client.hello()
        client.mail()
    info = collector.sessions[0].tls
    assert info is not None
    assert info.peer_certificate is not None
    assert ("DNS", "localhost") in info.peer_certificate["subjectAltName"]
    # a client without a certificate is rejected
    with pytest.raises((ssl.SSLError, EOFError, ConnectionError)):  # noqa: SIM117
        with running.client(tls=certificates.client) as client:
            client.reply()


@pytest.mark.parametrize("implicit", [False, True])
def test_large_messages_pass_unchanged_under_tls(
    serve: Serve, certificates: Certificates, implicit: bool, loop_name: str
) -> None:
    box = Box()
    running = serve(box, tls_config=certificates.server(), tls_listener=implicit, loop=loop_name)
    body = b"".join(b"%07d %s\r\n" % (i, b"x" * (i % 900)) for i in range(10_000))
    with running.client(tls=certificates.client if implicit else None) as client:
        if implicit:
            client.hello()
        else:
            starttls(client, certificates)
            client.say("EHLO c")
        for _ in range(2):
            assert client.mail(body) == "250 2.0.0 Ok: queued"
    assert box.bodies == [body, body]


def test_many_large_replies_pass_under_tls(
    serve: Serve, certificates: Certificates, loop_name: str
) -> None:
    running = serve(
        Box(),
        tls_config=certificates.server(),
        tls_listener=True,
        max_idle_commands=0,
        loop=loop_name,
    )

    async def talk() -> bytes:
        reader, writer = await asyncio.open_connection(
            *running.address, ssl=certificates.client, server_hostname="localhost"
        )
        writer.write(b"HELP\r\n" * 20_000 + b"QUIT\r\n")
        heard = await reader.read()
        writer.close()
        await writer.wait_closed()
        return heard

    heard = asyncio.run(asyncio.wait_for(talk(), DEADLINE))
    assert heard.count(b"\r\n214-2.0.0 Commands:\r\n") == 20_000
    assert heard.endswith(b"closing transmission channel\r\n")


# -- state that is reset -------------------------------------------------------------------------


def test_nothing_that_the_client_sent_survives_starttls(
    serve: Serve, certificates: Certificates, loop_name: str
) -> None:
    seen: list[tuple[object, ...]] = []

    class Looking(Handler):
        async def on_hello(self, session: Session, name: str) -> None:
            seen.append((session.helo, session.esmtp, session.user, vars(session.state).copy()))
            session.state.said = name

        async def on_auth(self, session: Session, credentials: ehlo.Credentials) -> str:
            assert isinstance(credentials, ehlo.PasswordCredentials)
            return credentials.username

        async def on_tls(self, session: Session) -> None:
            seen.append((session.helo, session.esmtp, session.user, vars(session.state).copy()))

        async def on_message(self, session: Session, message: Message) -> None: ...

    running = serve(
        Looking(),
        tls_config=certificates.server(),
        auth_mechs={"PLAIN": True},
        loop=loop_name,
    )
    with running.client() as client:
        client.hello("before.example")
        assert client.say(plain("alice", "wonder")).startswith("235")
        client.say("STARTTLS")
        client.wrap(certificates.client)
        # No greeting follows, and no command is allowed before EHLO
        assert client.say("MAIL FROM:<a@example.com>").startswith("503 5.5.1 ")
        assert client.say(plain("alice", "wonder")).startswith("503 5.5.1 ")
        assert "AUTH" in client.say("EHLO after.example")  # offered again
        assert client.say("RCPT TO:<b@example.com>").startswith("503 5.5.1 ")
    # Of the name, the command alone is known while the server is asked about it
    asked: tuple[object, ...] = ("", True, None, {})
    assert seen == [asked, ("", False, None, {}), asked]


def test_starttls_within_a_transaction_is_out_of_sequence(
    serve: Serve, certificates: Certificates
) -> None:
    with serve(Box(), tls_config=certificates.server()).ready() as client:
        client.say("MAIL FROM:<a@example.com>")
        assert client.say("STARTTLS").startswith("503 5.5.1 ")
        assert client.say("RCPT TO:<b@example.com>") == "250 2.1.5 Ok"


def test_id_and_peer_stay_over_starttls(serve: Serve, certificates: Certificates) -> None:
    noted = Noted()
    handler = handler_of("async def", noted, on_connect=None, on_tls=None)
    with serve(handler, tls_config=certificates.server()).client() as client:
        starttls(client, certificates)
        client.say("EHLO c")
    ((before,),), ((after,),) = noted.of("on_connect"), noted.of("on_tls")
    assert before is after


def test_errors_before_starttls_still_count(
    serve: Serve, clock: StoppedClock, certificates: Certificates
) -> None:
    running = serve(Box(), tls_config=certificates.server())
    with running.client() as client:
        client.hello()
        for _ in range(9):
            assert client.say("NONSENSE").startswith("500 ")
        client.say("STARTTLS")
        client.wrap(certificates.client)
        client.say("NOOP")
        (driver,) = running.drivers
        before = driver.wire.received
        client.send(b"NONSENSE\r\n")
        running.wait_until(lambda: driver.wire.received > before)
        clock.advance(0.9)
        assert client.has_heard_nothing()  # the tenth is slowed
        clock.advance(0.2)
        assert client.reply().startswith("500 ")


# -- injection -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "behind",
    [
        b"EHLO evil.example\r\nMAIL FROM:<evil@example.com>\r\n",
        b"RSET\r\n",
        b"\r\n",
        b"x",
        b"\x16\x03\x01",
        b"AUTH PLAIN AGFsaWNlAHdvbmRlcg==\r\n",
    ],
)
def test_bytes_behind_starttls_in_the_same_packet_close_the_connection(
    serve: Serve, certificates: Certificates, behind: bytes, loop_name: str
) -> None:
    noted = Noted()
    handler = handler_of(
        "async def", noted, on_mail=None, on_hello=None, on_reset=None, on_auth="alice"
    )
    running = serve(
        handler,
        tls_config=certificates.server(),
        auth_mechs={"PLAIN": True},
        loop=loop_name,
    )
    with running.client() as client:
        client.hello()
        client.send(b"STARTTLS\r\n" + behind)
        assert client.rest() == b""
    running.wait_until_no_sessions()
    assert noted.names == ["on_hello"]


def test_bytes_behind_a_pipelined_starttls_are_never_executed(
    serve: Serve, certificates: Certificates
) -> None:
    noted = Noted()
    handler = handler_of("async def", noted, on_hello=None, on_mail=None)
    running = serve(handler, tls_config=certificates.server())
    with running.client() as client:
        client.send(b"EHLO c\r\nSTARTTLS\r\nEHLO evil\r\nMAIL FROM:<evil@example.com>\r\n")
        assert b"220 2.0.0" not in client.rest()
    running.wait_until_no_sessions()
    assert [name for _, name in noted.of("on_hello")] == ["c"]
    assert noted.of("on_mail") == []


def test_plain_commands_after_the_220_fail_the_handshake(
    serve: Serve, certificates: Certificates
) -> None:
    noted = Noted()
    handler = handler_of("async def", noted, on_mail=None, on_reset=None)
    running = serve(handler, tls_config=certificates.server())
    with running.client() as client:
        client.hello()
        client.say("STARTTLS")
        client.send(b"RSET\r\nMAIL FROM:<evil@example.com>\r\n")
        assert b"250" not in client.rest()
    running.wait_until_no_sessions()
    assert noted.names == []


# -- handshakes that fail ------------------------------------------------------------------------


@pytest.mark.parametrize("implicit", [False, True])
def test_a_failed_handshake_closes_the_connection_without_a_reply(
    serve: Serve, certificates: Certificates, implicit: bool, loop_name: str
) -> None:
    collector = Collector()
    running = serve(
        collector, tls_config=certificates.server(), tls_listener=implicit, loop=loop_name
    )
    with running.client() as client:
        if not implicit:
            client.hello()
            client.say("STARTTLS")
        client.send(b"this is no handshake\r\n" * 100)
        rest = client.rest()
    assert b"220" not in rest
    assert b"\r\n" not in rest
    assert len(rest) < 16  # an alert at most
    collector.wait_for_disconnect()
    running.wait_until_no_sessions()


def test_a_client_that_does_not_trust_the_certificate_may_leave(
    serve: Serve, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ehlo")
    running = serve(Collector(), tls_config=certificates.server(), tls_listener=True)
    with pytest.raises(ssl.SSLCertVerificationError):
        running.client(tls=ssl.create_default_context())
    running.wait_until_no_sessions()
    assert "TLS failed" in caplog.text


def test_a_client_that_reads_slowly_in_the_handshake_is_not_greeted_before_its_end(
    serve: Serve, certificates: Certificates, loop_name: str
) -> None:
    running = serve(Box(), tls_config=certificates.server(), tls_listener=True, loop=loop_name)
    with running.client() as client:
        running.wait_until(lambda: len(running.drivers) == 1)
        (driver,) = running.drivers

        async def pause_and_resume() -> None:
            driver.pause_writing()
            driver.resume_writing()

        running.run(pause_and_resume)
        assert driver.connection.state is State.GREETING
        assert (driver.wire.sent, driver.wire.in_handshake) == (0, True)
        client.wrap(certificates.client)
        assert client.reply() == "220 mx.example smtpd ESMTP Service ready"


@pytest.mark.parametrize("stage", range(0, 600, 50))
def test_a_client_that_leaves_during_the_handshake_leaves_no_session(
    serve: Serve, certificates: Certificates, stage: int
) -> None:
    collector = Collector()
    running = serve(collector, tls_config=certificates.server(), tls_listener=True)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = certificates.client.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    for reset in (False, True):
        client = running.client()
        client.send(hello[:stage])
        if reset:  # maybe before it has been accepted
            client.reset()
        else:
            client.end()
            client.rest()
            client.close()
            collector.wait_for_disconnect()
    running.wait_until_no_sessions()


def test_a_handshake_in_single_bytes_works(
    serve: Serve, certificates: Certificates, loop_name: str
) -> None:
    running = serve(Box(), tls_config=certificates.server(), tls_listener=True, loop=loop_name)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = certificates.client.wrap_bio(incoming, outgoing, server_hostname="localhost")

    def drip(client: Client) -> None:
        for byte in outgoing.read():
            client.send(bytes([byte]))

    with running.client() as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                drip(client)
                incoming.write(client.sock.recv(65_536))
            else:
                break
        tls.write(b"QUIT\r\n")
        drip(client)
        incoming.write(client.rest())
        heard = b""
        while (data := tls.read(65_536)) or not heard:
            heard += data
            if not data:
                break
        assert heard.startswith(b"220 mx.example ")
        assert b"221 2.0.0 " in heard


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_tls_is_rejected(
    serve: Serve, certificates: Certificates, version: ssl.TLSVersion
) -> None:
    running = serve_with_files(serve, Box(), certificates, tls_listener=True)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    certificates.authority.configure_trust(old)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = version
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        running.client(tls=old)


def test_garbage_in_the_middle_of_a_session_ends_it(
    serve: Serve, certificates: Certificates, loop_name: str
) -> None:
    collector = Collector()
    running = serve(collector, tls_config=certificates.server(), loop=loop_name)
    with running.client() as client:
        tls = starttls(client, certificates)
        client.say("EHLO c")
        client.say("MAIL FROM:<a@example.com>")
        raw = socket.socket(fileno=tls.detach())
        with raw:
            raw.settimeout(DEADLINE)
            raw.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
            while raw.recv(4096):
                pass
    collector.wait_for_disconnect()
    assert collector.messages == []


def test_garbage_while_a_message_is_handled_does_not_undo_it(
    serve: Serve, certificates: Certificates, loop_name: str
) -> None:
    noted = Noted()
    inside, go_on = threading.Event(), threading.Event()

    def wait(*_: object) -> None:
        inside.set()
        assert go_on.wait(DEADLINE)
        noted.note("done", ())

    handler = handler_of("def", noted, on_message=wait, on_replied=None, on_disconnect=None)
    running = serve(handler, tls_config=certificates.server(), loop=loop_name)
    with running.client() as client:
        tls = starttls(client, certificates)
        client.say("EHLO c")
        client.begin_message()
        assert inside.wait(DEADLINE)
        with socket.socket(fileno=tls.detach()) as raw:
            raw.settimeout(DEADLINE)
            raw.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
            while raw.recv(4096):
                pass
        go_on.set()
    running.wait_until_no_sessions()
    assert noted.names == ["on_message", "done", "on_replied", "on_disconnect"]
    assert [sent for _, _, sent in noted.of("on_replied")] == [False]


def test_the_last_reply_and_the_end_of_tls_are_one_write(
    serve: Serve, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a client of asyncio that reads the reply alone may leave its socket open."""
    running = serve(Box(), tls_config=certificates.server(), tls_listener=True, loop="asyncio")
    with running.client(tls=certificates.client) as client:
        client.hello()
        sends = note_sends(monkeypatch, running.address.port)
        assert client.say("QUIT").startswith("221 ")
        assert client.is_closed()
    assert len(sends) == 1


def test_a_close_notify_of_the_client_is_answered_before_the_server_closes(
    serve: Serve, certificates: Certificates
) -> None:
    running = serve(Box(), tls_config=certificates.server(), tls_listener=True)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = certificates.client.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with running.client() as client:
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                client.send(outgoing.read())
                incoming.write(client.sock.recv(65_536))
            else:
                break
        tls.write(b"EHLO c\r\nNOOP\r\n")
        with pytest.raises(ssl.SSLWantReadError):
            tls.unwrap()  # the client's close_notify; the server's is still to come
        client.send(outgoing.read())
        incoming.write(client.rest())
        heard = b""
        while True:
            try:
                data = tls.read(65_536)
            except ssl.SSLError:
                break
            if not data:
                break
            heard += data
        assert heard.startswith(b"220 ")
        assert heard.endswith(b"250 2.0.0 Ok\r\n")


# -- the wrong protocol --------------------------------------------------------------------------


def test_a_tls_hello_on_a_plain_port_is_421(serve: Serve, certificates: Certificates) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = certificates.client.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    with serve(Box()).client() as client:
        client.reply()
        client.send(outgoing.read())
        assert client.rest() == b"421 4.7.0 This is an SMTP port\r\n"


@pytest.mark.parametrize(
    "verb", ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "CONNECT", "get"]
)
def test_an_http_verb_is_421_and_the_rest_is_not_read(serve: Serve, verb: str) -> None:
    collector = Collector()
    running = serve(collector)
    with running.client() as client:
        client.reply()
        client.send(
            f"{verb} / HTTP/1.1\r\nHost: x\r\n\r\nEHLO c\r\nMAIL FROM:<a@example.com>\r\n"
            "RCPT TO:<b@example.com>\r\nDATA\r\nx\r\n.\r\n".encode()
        )
        assert client.rest() == b"421 4.7.0 This is an SMTP port\r\n"
    collector.wait_for_disconnect()
    assert collector.messages == []


# -- gates ---------------------------------------------------------------------------------------

EVERYTHING = {
    "AUTH PLAIN AGFsaWNlAHdvbmRlcg==",
    "DATA",
    "EHLO c",
    "EXPN list",
    "HELO c",
    "HELP",
    "MAIL FROM:<a@example.com>",
    "NOOP",
    "RCPT TO:<b@example.com>",
    "RSET",
    "STARTTLS",
    "VRFY bob",
}


@pytest.mark.parametrize("login_too", [False, True])
def test_before_required_tls_only_a_few_commands_pass(
    serve: Serve, certificates: Certificates, login_too: bool
) -> None:
    running = serve(
        Box(),
        tls_config=certificates.server(),
        tls_required=True,
        auth_handler=accept,
        auth_required=login_too,
    )
    for command in sorted(EVERYTHING):
        with running.ready() as client:
            answer = client.say(command)
        rejected = answer == "530 5.7.0 Must issue a STARTTLS command first"
        passes = command.split()[0] in {"NOOP", "EHLO", "HELO", "STARTTLS"}
        assert rejected is not passes, (command, answer)
    with running.ready() as client:
        assert client.say("QUIT").startswith("221 ")


def test_before_a_required_login_only_a_few_commands_pass(serve: Serve) -> None:
    running = serve(Box(), auth_handler=accept, auth_required=True, auth_mechs={"PLAIN": True})
    for command in sorted(EVERYTHING):
        with running.ready() as client:
            answer = client.say(command)
        rejected = answer == "530 5.7.0 Authentication required"
        passes = command.split()[0] in {"AUTH", "EHLO", "HELO", "HELP", "NOOP", "RSET", "STARTTLS"}
        assert rejected is not passes, (command, answer)
    with running.ready() as client:
        assert client.say("QUIT").startswith("221 ")


def test_after_tls_and_login_mail_is_accepted(serve: Serve, certificates: Certificates) -> None:
    running = serve(
        Box(),
        tls_config=certificates.server(),
        tls_required=True,
        auth_handler=accept,
        auth_required=True,
    )
    with running.client() as client:
        starttls(client, certificates)
        client.say("EHLO c")
        assert client.say("MAIL FROM:<a@example.com>") == "530 5.7.0 Authentication required"
        assert client.say(plain("alice", "wonder")).startswith("235 ")
        assert client.mail() == "250 2.0.0 Ok: queued"


def test_with_tls_required_implicit_tls_is_enough(serve: Serve, certificates: Certificates) -> None:
    running = serve(Box(), tls_config=certificates.server(), tls_required=True, tls_listener=True)
    with running.client(tls=certificates.client) as client:
        client.hello()
        assert client.mail() == "250 2.0.0 Ok: queued"


# -- unsafe options -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tls_required": True}, "tls_required needs a certificate"),
        ({"tls_listener": True}, "tls_listener needs a certificate"),
        ({"auth_required": True}, "no client could log in"),
        (
            {"auth_required": True, "auth_handler": accept, "auth_mechs": {"CRAM-MD5": False}},
            "no client could log in",
        ),
        ({"auth_mechs": {"GSSAPI": True}}, "unknown mechanism: GSSAPI"),
        ({"auth_mechs": {"": True}}, "unknown mechanism"),
        ({"max_size": -1}, "max_size"),
        ({"max_memory": -1}, "max_memory"),
        ({"max_recipients": 0}, "max_recipients"),
        ({"max_connections": 0}, "max_connections"),
        ({"max_connections_per_address": -3}, "max_connections_per_address"),
        ({"threads": 0}, "threads"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"handler_timeout": -1}, "handler_timeout"),
        ({"grace": -0.1}, "grace"),
        ({"grace": float("nan")}, "grace"),
        ({"hostname": "a b"}, "hostname"),
        ({"hostname": "a\r\nb"}, "hostname"),
        ({"hostname": "ä.example"}, "hostname"),
        ({"appname": "a\r\nb"}, "appname"),
        ({"appname": "x" * 256}, "appname"),
        ({"bare_newlines": "ignore"}, "ignore"),
        ({"unknown_params": "accept"}, "accept"),
        ({"loop": "trio"}, "loop is 'trio'"),
        ({"addr": "localhost"}, "not an address"),
        ({"addr": ["127.0.0.1:0", "127.0.0.1:70000"]}, "not an address"),
    ],
)
def test_unsafe_options_are_a_value_error_at_the_start(
    options: dict[str, Any], message: str
) -> None:
    server = Server(Box(), **({"addr": "127.0.0.1:0"} | options))
    with pytest.raises(ValueError, match=message), server.in_thread():
        pytest.fail("it has started")
    assert server.addresses == []


@pytest.mark.parametrize(
    "options",
    [
        {"auth_handler": accept, "auth_required": True},
        {"auth_handler": accept, "auth_required": True, "auth_mechs": {"plain": True}},
        {"max_size": 0},
        {"max_memory": 0},
        {"grace": 0},
    ],
)
def test_safe_options_resolve(options: dict[str, Any]) -> None:
    server = Server(Box(), addr="127.0.0.1:0", **options)
    assert resolve(server.options, callbacks_of(server.options)).settings.hostname


def test_a_handler_without_login_hooks_cannot_require_one(certificates: Certificates) -> None:
    server = Server(
        handler_of("def"), addr="127.0.0.1:0", auth_required=True, tls_config=certificates.server()
    )
    with pytest.raises(ValueError, match="no client could log in"), server.in_thread():
        pytest.fail("it has started")


def test_the_blocking_form_raises_the_same() -> None:
    with pytest.raises(ValueError, match="tls_required needs a certificate"):
        Server(Box(), addr="127.0.0.1:0", tls_required=True).listen_and_serve()


# -- configure_tls -------------------------------------------------------------------------------


def test_configure_tls_loads_files_and_an_encrypted_key(
    certificates: Certificates, serve: Serve
) -> None:
    server = Server(Box(), addr="127.0.0.1:0")
    server.configure_tls(certificates.cert_file, certificates.encrypted_key_file, PASSPHRASE)
    assert isinstance(server.options.tls_config, ssl.SSLContext)
    assert server.options.tls_config.minimum_version is ssl.TLSVersion.TLSv1_2
    with serve(Box(), tls_config=server.options.tls_config).client() as client:
        starttls(client, certificates)
        assert client.say("EHLO c").startswith("250")


def test_configure_tls_with_wrong_files_says_so(certificates: Certificates, tmp_path: Path) -> None:
    server = Server(Box(), addr="127.0.0.1:0")
    missing = str(tmp_path / "missing")
    garbage = tmp_path / "garbage"
    garbage.write_text("no certificate")
    with pytest.raises(FileNotFoundError):
        server.configure_tls(missing, certificates.key_file)
    with pytest.raises(FileNotFoundError):
        server.configure_tls(certificates.cert_file, missing)
    with pytest.raises(ssl.SSLError):
        server.configure_tls(str(garbage), certificates.key_file)
    with pytest.raises(ssl.SSLError):
        server.configure_tls(certificates.cert_file, certificates.other_key_file)
    for passphrase in (None, "wrong", b"wrong", ""):
        with pytest.raises(ssl.SSLError):
            server.configure_tls(
                certificates.cert_file, certificates.encrypted_key_file, passphrase
            )
    assert server.options.tls_config is None


def test_asyncio_streams_can_talk_under_tls(serve: Serve, certificates: Certificates) -> None:
    """asyncio has an implementation of STARTTLS of its own."""
    running = serve(Box(), tls_config=certificates.server())

    async def talk() -> list[bytes]:
        reader, writer = await asyncio.open_connection(*running.address)
        heard = [await reader.readline()]
        writer.write(b"STARTTLS\r\n")
        heard.append(await reader.readline())
        await writer.start_tls(certificates.client, server_hostname="localhost")
        writer.write(b"HELO c\r\nQUIT\r\n")
        heard += [await reader.readline() for _ in range(3)]
        writer.close()
        await writer.wait_closed()
        return heard

    heard = asyncio.run(asyncio.wait_for(talk(), DEADLINE))
    assert [line[:3] for line in heard] == [b"220", b"220", b"250", b"221", b""]


def test_a_context_for_clients_or_without_certificate_is_an_error_at_the_start() -> None:
    server = Server(Box(), addr="127.0.0.1:0", tls_config=ssl.create_default_context())
    with (
        pytest.raises(ValueError, match=r"^tls_config is a context for clients; write "),
        server.in_thread(),
    ):
        pass
    server = Server(Box(), addr="127.0.0.1:0", tls_config=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    with (
        pytest.raises(ValueError, match=r"\(.*\); load its certificate by load_cert_chain$"),
        server.in_thread(),
    ):
        pass


def test_a_context_that_chooses_its_certificate_by_name_needs_none_of_its_own(
    serve: Serve, certificates: Certificates
) -> None:
    chosen, context = certificates.server(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def choose(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = chosen

    context.sni_callback = choose
    running = serve(Box(), tls_config=context, tls_listener=True)
    with running.client(tls=certificates.client) as client:
        assert client.reply().startswith("220 ")


def test_a_key_that_needs_a_passphrase_is_an_error_that_says_so(
    certificates: Certificates,
) -> None:
    cert, key = certificates.cert_file, certificates.encrypted_key_file
    with pytest.raises(ssl.SSLError) as caught:
        Server(Box()).configure_tls(cert, key)
    (note,) = caught.value.__notes__
    assert (
        note == f"{cert} with {key}; the key is encrypted: call configure_tls with its passphrase"
    )
