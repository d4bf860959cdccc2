"""The mechanisms beyond PLAIN, LOGIN and CRAM-MD5, end to end; each failure waits and counts.

Longer than most: a mechanism is shown with what it needs of TLS, of hooks and of options.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import queue
import re
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

import ehlo
from ehlo import AuthContext, Credentials, Handler, Mechanism, Message, Peer, ScramKeys, Session
from ehlo.protocol.auth.mechanism import AsyncSteps, Secret, Steps
from ehlo.server.limits import FailedLogins
from ehlo.server.tls.certificates import Certificate, file_context
from ehlo.server.tls.channel import LoadedContext
from support.certificates import Certificates
from support.client import Client
from support.clock import StoppedClock
from support.hooks import KINDS, Noted, handler_of
from support.logins import cram_md5, disguises, encoded, login, plain, scram
from support.serving import DEADLINE, Box, Running, Serve

kinds = pytest.mark.parametrize("kind", KINDS)
algorithms = pytest.mark.parametrize("algorithm", ["SHA-1", "SHA-256"])

ACCEPTED = "235 2.7.0 Authentication successful"
WRONG = "535 5.7.8 Authentication credentials invalid"
TROUBLE = "454 4.7.0 Temporary authentication failure"
MALFORMED = "501 5.5.2 Malformed authentication response"
TOO_MANY = "421 4.7.0 Too many failed logins"
PASSWORD = "tanstaaf7Q~correct-horse"


def context_of(
    certificates: Certificates,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    *,
    client_ca: bool = False,
) -> ssl.SSLContext:
    """A server's context with the certificate loaded by us, for one version of TLS."""
    authority = certificates.authority_file if client_ca else None
    own = Certificate(certificates.cert_file, certificates.key_file, client_ca=authority)
    context = file_context((own,))
    context.maximum_version = version
    return context


def mechanisms_in(hello: str) -> list[str]:
    """What the reply to EHLO offers."""
    found = [line[9:].split() for line in hello.splitlines() if line[4:].startswith("AUTH ")]
    return found[0] if found else []


class Known(Handler):
    """Knows Alice: by her password, a token, her certificate, or by what is kept for SCRAM."""

    def __init__(self, secret: Secret = PASSWORD) -> None:
        self.secret = secret
        self.seen: list[Credentials] = []
        self.users: list[str | None] = []

    async def on_auth(self, session: Session, credentials: Credentials) -> str | None:
        self.seen.append(credentials)
        match credentials:
            case ehlo.PasswordCredentials("alice", password):
                return "alice" if password == PASSWORD else None
            case ehlo.TokenCredentials("alice", token):
                return "alice" if token == PASSWORD else None
            case ehlo.CertificateCredentials(certificate, authzid):
                name = dict(pair[0] for pair in certificate["subject"])["commonName"]
                return name if authzid in ("", name) else None
            case ehlo.AnonymousCredentials(trace):
                return "anonymous" if trace else None
            case _:
                return None

    async def on_secret(self, session: Session, username: str) -> Secret:
        return self.secret if username == "alice" else None

    async def on_message(self, session: Session, message: Message) -> None:
        self.users.append(session.user)


# -- SCRAM ---------------------------------------------------------------------------------------


@kinds
@algorithms
@pytest.mark.parametrize("stored", ["text", "bytes", "keys", "list"])
def test_scram_logs_in(serve: Serve, kind: str, algorithm: str, stored: str) -> None:
    keys = [
        ScramKeys.derive(PASSWORD, b"sixteen bytes...", name, 5000) for name in ("SHA-1", "SHA-256")
    ]
    secrets: dict[str, Any] = {
        "text": PASSWORD,
        "bytes": PASSWORD.encode(),
        "keys": next(each for each in keys if each.algorithm == algorithm),
        "list": keys,
    }
    noted = Noted()
    handler = handler_of(kind, noted, on_secret=lambda _session, _user: secrets[stored])
    with serve(handler, auth_required=True).ready() as client:
        assert scram(client, "alice", PASSWORD, f"SCRAM-{algorithm}") == ACCEPTED
        assert client.mail() == "250 2.0.0 Ok: queued"
        assert scram(client, "alice", PASSWORD).startswith("503 5.5.1 ")
    ((session, message),) = noted.of("on_message")
    assert session.user == "alice"
    assert b" with ESMTPA\r\n" in message.trace


@algorithms
def test_scram_rejects_a_wrong_password_and_an_unknown_user_alike(
    serve: Serve, no_delay: None, algorithm: str
) -> None:
    handler = Known()
    with serve(handler).ready() as client:
        assert scram(client, "alice", "wonder", f"SCRAM-{algorithm}") == WRONG
        assert scram(client, "bob", PASSWORD, f"SCRAM-{algorithm}") == WRONG
        assert client.say("MAIL FROM:<a@example.com>").startswith("250")
        client.say("RSET")
        for _ in range(4):
            assert scram(client, "bob", "", f"SCRAM-{algorithm}") == WRONG
        assert client.say("NOOP") == TOO_MANY
        assert client.is_closed()
    assert handler.seen == []


@kinds
@pytest.mark.parametrize(
    ("secret", "said"),
    [
        (None, WRONG),
        ("", WRONG),
        (b"", WRONG),
        ([], WRONG),
        ([ScramKeys.derive(PASSWORD, b"salt", "SHA-1")], WRONG),
        (True, TROUBLE),
        (4711, TROUBLE),
        ([PASSWORD], TROUBLE),
        ("\udcff", TROUBLE),
        (RuntimeError("wonder"), TROUBLE),
        (ehlo.Reply(250, "2.0.0", "Ok"), TROUBLE),
        (ehlo.Reject(454, "4.7.0", "Later"), "454 4.7.0 Later"),
        (ehlo.Reject(535, "5.7.8", "No"), "535 5.7.8 No"),
    ],
)
def test_on_secret_fails_closed(
    serve: Serve, no_delay: None, kind: str, secret: object, said: str
) -> None:
    noted = Noted()
    running = serve(handler_of(kind, noted, on_secret=secret, on_reset=None), auth_required=True)
    with running.ready() as client:
        assert scram(client, "alice", PASSWORD) == said
        client.say("RSET")
        assert client.say("MAIL FROM:<a@example.com>").startswith("530 ")
    ((session, username),) = noted.of("on_secret")
    assert username == "alice"
    ((session,),) = noted.of("on_reset")
    assert session.user is None


def test_scram_keys_are_an_unknown_user_for_cram_md5(serve: Serve, no_delay: None) -> None:
    keys = ScramKeys.derive(PASSWORD, b"sixteen bytes...")
    for secret in (keys, [keys]):
        with serve(Known(secret)).ready() as client:
            assert cram_md5(client, "alice", PASSWORD) == WRONG
            assert cram_md5(client, "alice", "") == WRONG
            assert scram(client, "alice", PASSWORD) == ACCEPTED


def test_a_slow_on_secret_delays_no_other_client(serve: Serve) -> None:
    go = threading.Event()

    class Slow(Known):
        async def on_secret(self, session: Session, username: str) -> Secret:
            if username == "slow":
                await asyncio.to_thread(go.wait, 15)
            return PASSWORD

    running = serve(Slow())
    with running.ready() as slow, running.ready() as other:
        slow.send(f"AUTH SCRAM-SHA-256 {encoded('n,,n=slow,r=abc')}\r\n*\r\nNOOP\r\n".encode())
        assert scram(other, "alice", PASSWORD) == ACCEPTED
        go.set()
        assert [reply[:4] for reply in slow.replies(3)] == ["334 ", "501 ", "250 "]


def test_an_on_secret_that_takes_too_long_is_454(serve: Serve) -> None:
    class Hanging(Known):
        async def on_secret(self, session: Session, username: str) -> Secret:
            await asyncio.Event().wait()
            return None

    with serve(Hanging(), handler_timeout=0.05).ready() as client:
        assert scram(client, "alice", PASSWORD) == TROUBLE
        assert client.say("NOOP") == "250 2.0.0 Ok"


def test_a_client_that_leaves_while_its_secret_is_looked_up_leaves_nothing(serve: Serve) -> None:
    noted = Noted()
    begun, go = threading.Event(), threading.Event()

    def wait(*_arguments: object) -> str:
        begun.set()
        go.wait(DEADLINE)
        return PASSWORD

    running = serve(handler_of("def", noted, on_secret=wait, on_disconnect=None))
    client = running.ready()
    client.send(f"AUTH SCRAM-SHA-256 {encoded('n,,n=alice,r=abc')}\r\n".encode())
    assert begun.wait(DEADLINE)
    client.reset()
    running.wait_until_lost()
    go.set()
    running.wait_until_no_sessions()
    assert noted.names == ["on_secret", "on_disconnect"]


def salt(running: Running, user: str, address: Peer | None = None) -> str:
    """What anybody can learn about a name: the salt in the server's first message."""
    with Client(address or running.address) as client:
        client.hello()
        answer = client.say("AUTH SCRAM-SHA-256 " + encoded(f"n,,n={user},r=abc"))
    return base64.b64decode(answer[4:]).decode().split(",")[1]


def test_salts_stay_the_same_for_a_name_and_differ_between_servers(serve: Serve) -> None:
    running, another = serve(Known()), serve(Known())
    for user in ("alice", "nobody"):
        assert salt(running, user) == salt(running, user)
        assert salt(running, user) != salt(another, user)
    assert salt(running, "alice") != salt(running, "nobody")


def test_salts_are_the_same_on_all_listeners(serve: Serve) -> None:
    """A user with keys has the same salt on each of them, so an unknown one must have it, too."""
    listeners = [ehlo.Listener("127.0.0.1:0"), ehlo.Listener("127.0.0.1:0", max_size=1)]
    running = serve(Known(), addr=":25", listeners=listeners)
    first, second = running.server.addresses
    assert salt(running, "nobody", first) == salt(running, "nobody", second)


# -- channel bindings ----------------------------------------------------------------------------

BINDINGS = [
    (ssl.TLSVersion.TLSv1_2, "tls-unique"),
    (ssl.TLSVersion.TLSv1_2, "tls-server-end-point"),
    (ssl.TLSVersion.TLSv1_3, "tls-server-end-point"),
]


@algorithms
@pytest.mark.parametrize(("version", "binding"), BINDINGS)
@pytest.mark.parametrize("at_once", [True, False])
def test_scram_plus_binds_to_the_tls_connection(
    serve: Serve,
    certificates: Certificates,
    algorithm: str,
    version: ssl.TLSVersion,
    binding: str,
    at_once: bool,
) -> None:
    running = serve(Known(), tls_config=context_of(certificates, version), tls_listener=at_once)
    with running.client(tls=certificates.client if at_once else None) as client:
        client.hello()
        if not at_once:
            client.say("STARTTLS")
            client.wrap(certificates.client)
            client.say("EHLO c")
        name = f"SCRAM-{algorithm}-PLUS"
        assert scram(client, "alice", PASSWORD, name, (binding, client.sock)) == ACCEPTED


@pytest.mark.parametrize(("version", "binding"), BINDINGS)
def test_a_wrong_channel_binding_is_rejected(
    serve: Serve,
    certificates: Certificates,
    no_delay: None,
    version: ssl.TLSVersion,
    binding: str,
) -> None:
    context = context_of(certificates, version)
    running = serve(Known(), tls_config=context, tls_listener=True)
    with running.ready(tls=certificates.client) as client:
        bound = (binding, b"seen by who is in between")
        assert scram(client, "alice", PASSWORD, "SCRAM-SHA-256-PLUS", bound) == WRONG


def test_tls_unique_is_that_of_a_resumed_connection(
    serve: Serve, certificates: Certificates
) -> None:
    context = context_of(certificates, ssl.TLSVersion.TLSv1_2)
    running = serve(Known(), tls_config=context, tls_listener=True)
    name, unique = "SCRAM-SHA-256-PLUS", "tls-unique"
    with running.ready(tls=certificates.client) as client:
        assert isinstance(client.sock, ssl.SSLSocket)
        assert scram(client, "alice", PASSWORD, name, (unique, client.sock)) == ACCEPTED
        session = client.sock.session
    with running.client() as client:
        client.sock = certificates.client.wrap_socket(
            client.sock, server_hostname="localhost", session=session
        )
        assert client.sock.session_reused
        client.hello()
        assert scram(client, "alice", PASSWORD, name, (unique, client.sock)) == ACCEPTED


PLUS = {"SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS"}


@pytest.mark.parametrize(
    ("loaded_by_us", "version", "bound"),
    [
        (True, ssl.TLSVersion.TLSv1_3, True),
        (True, ssl.TLSVersion.TLSv1_2, True),
        (False, ssl.TLSVersion.TLSv1_3, False),  # the server does not know its certificate
        (False, ssl.TLSVersion.TLSv1_2, True),
    ],
)
def test_the_plus_forms_are_offered_if_there_is_a_binding(
    serve: Serve,
    certificates: Certificates,
    no_delay: None,
    loaded_by_us: bool,
    version: ssl.TLSVersion,
    bound: bool,
) -> None:
    context = context_of(certificates) if loaded_by_us else certificates.server()
    context.maximum_version = version
    running = serve(Known(), tls_config=context)
    with running.client() as client:
        client.reply()
        assert not PLUS & set(mechanisms_in(client.say("EHLO c")))
        first = encoded("y,,n=alice,r=abc")
        assert client.say(f"AUTH SCRAM-SHA-256 {first}").startswith("334 ")
        client.say("*")
        assert client.say("AUTH SCRAM-SHA-256-PLUS").startswith("538 5.7.11 ")
        client.say("STARTTLS")
        client.wrap(certificates.client)
        offered = mechanisms_in(client.say("EHLO c"))
        assert bool(PLUS & set(offered)) is bound
        assert [name for name in offered if name in PLUS] == offered[: 2 * bound]
        # RFC 5802 6: it claims that the server offers none, so it was removed on the way
        said = client.say(f"AUTH SCRAM-SHA-256 {first}")
        assert said == WRONG if bound else said.startswith("334 ")
        if not bound:
            client.say("*")
            assert client.say("AUTH SCRAM-SHA-256-PLUS").startswith("504 5.5.4 ")


def test_the_binding_is_that_of_the_certificate_in_use(
    serve: Serve, certificates: Certificates, tmp_path: Any
) -> None:
    issued = certificates.authority.issue_cert("localhost", "other.example")
    other_file = tmp_path / "other.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(str(other_file))
    other = file_context((Certificate(str(other_file), str(other_file)),))
    context = context_of(certificates)
    assert isinstance(context, LoadedContext)
    assert isinstance(other, LoadedContext)
    assert context.end_point != other.end_point

    def choose(tls: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        tls.context = other

    context.sni_callback = choose
    running = serve(Known(), tls_config=context, tls_listener=True)
    with running.ready(tls=certificates.client) as client:
        bound = ("tls-server-end-point", client.sock)
        assert scram(client, "alice", PASSWORD, "SCRAM-SHA-256-PLUS", bound) == ACCEPTED


# -- tokens --------------------------------------------------------------------------------------


def xoauth2(token: str, user: str = "alice") -> str:
    return "AUTH XOAUTH2 " + encoded(f"user={user}\x01auth=Bearer {token}\x01\x01")


def oauthbearer(token: str, user: str = "alice") -> str:
    authzid = f"a={user}" if user else ""
    response = f"n,{authzid},\x01host=mx.example\x01port=587\x01auth=Bearer {token}\x01\x01"
    return "AUTH OAUTHBEARER " + encoded(response)


TOKENS = {"XOAUTH2": True, "OAUTHBEARER": True}
COMMANDS = {"XOAUTH2": xoauth2, "OAUTHBEARER": oauthbearer}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_token_logs_in(serve: Serve, certificates: Certificates, name: str) -> None:
    handler = Known()
    running = serve(handler, tls_config=certificates.server(), tls_listener=True, auth_mechs=TOKENS)
    with running.ready(tls=certificates.client) as client:
        assert client.say(COMMANDS[name](PASSWORD)) == ACCEPTED
        client.mail()
    assert handler.users == ["alice"]
    (credentials,) = handler.seen
    assert isinstance(credentials, ehlo.TokenCredentials)
    assert (credentials.mechanism, credentials.token) == (name, PASSWORD)
    where = ("mx.example", 587) if name == "OAUTHBEARER" else ("", 0)
    assert (credentials.host, credentials.port) == where


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_token_is_answered_in_json_and_then_rejected(
    serve: Serve, certificates: Certificates, no_delay: None, name: str
) -> None:
    running = serve(Known(), tls_config=certificates.server(), tls_listener=True, auth_mechs=TOKENS)
    with running.ready(tls=certificates.client) as client:
        for _ in range(6):
            error = client.say(COMMANDS[name]("wrong"))
            assert base64.b64decode(error.removeprefix("334 ")).startswith(b'{"status":"')
            assert client.say("AQ==") == WRONG
        assert client.say(COMMANDS[name]("wrong")) == TOO_MANY
        assert client.is_closed()


def test_a_token_is_rejected_without_tls(serve: Serve, certificates: Certificates) -> None:
    running = serve(Known(), tls_config=certificates.server(), auth_mechs=TOKENS)
    with running.client() as client:
        client.reply()
        assert not TOKENS.keys() & set(mechanisms_in(client.say("EHLO c")))
        assert client.say(xoauth2(PASSWORD)).startswith("538 5.7.11 ")
        client.say("STARTTLS")
        client.wrap(certificates.client)
        assert TOKENS.keys() <= set(mechanisms_in(client.say("EHLO c")))


def test_a_function_gets_tokens_as_passwords(
    serve: Serve, certificates: Certificates, no_delay: None
) -> None:
    asked: list[tuple[object, ...]] = []

    def check(_peer: object, *arguments: object) -> bool:
        asked.append(arguments)
        return arguments[2] == PASSWORD.encode()

    running = serve(
        Box(),
        auth_handler=check,
        tls_config=certificates.server(),
        tls_listener=True,
        auth_mechs=TOKENS,
    )
    for name, command in COMMANDS.items():
        with running.ready(tls=certificates.client) as client:
            assert client.say(command("wrong")).startswith("334 ")
            assert client.say("") == WRONG
            assert client.say(command(PASSWORD)) == ACCEPTED
            assert asked[-1] == (name, b"alice", PASSWORD.encode(), b"")
    asked.clear()
    with running.ready(tls=certificates.client) as client:
        assert client.say(oauthbearer(PASSWORD, "")).startswith("334 ")
        assert client.say("") == WRONG  # a token without a user is rejected
    assert asked == []


# -- EXTERNAL and ANONYMOUS ----------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_certificate_logs_in(
    serve: Serve, certificates: Certificates, no_delay: None, version: ssl.TLSVersion
) -> None:
    handler = Known()
    running = serve(
        handler,
        tls_config=context_of(certificates, version, client_ca=True),
        auth_mechs={"EXTERNAL": True},
        auth_required=True,
    )
    with running.ready() as client:
        assert client.say("AUTH EXTERNAL =").startswith("538 5.7.11 ")
        client.say("STARTTLS")
        client.wrap(certificates.client_named("alice"))
        assert "EXTERNAL" in mechanisms_in(client.say("EHLO c"))
        assert client.say("AUTH EXTERNAL " + encoded("bob")) == WRONG
        assert client.say("AUTH EXTERNAL") == "334 "
        assert client.say("") == ACCEPTED
        client.mail()
    assert handler.users == ["alice"]
    assert isinstance(handler.seen[0], ehlo.CertificateCredentials)
    assert [getattr(each, "authzid", None) for each in handler.seen] == ["bob", ""]


def test_external_is_not_offered_without_a_certificate(
    serve: Serve, certificates: Certificates
) -> None:
    context = context_of(certificates, client_ca=True)
    running = serve(Known(), tls_config=context, tls_listener=True, auth_mechs={"EXTERNAL": True})
    with running.client(tls=certificates.client) as client:
        client.reply()
        assert "EXTERNAL" not in mechanisms_in(client.say("EHLO c"))
        assert client.say("AUTH EXTERNAL =") == "504 5.5.4 Authentication mechanism not available"


def test_a_certificate_of_another_authority_ends_the_handshake(
    serve: Serve, certificates: Certificates
) -> None:
    context = context_of(certificates, ssl.TLSVersion.TLSv1_2, client_ca=True)
    running = serve(Known(), tls_config=context, tls_listener=True, auth_mechs={"EXTERNAL": True})
    with pytest.raises((ssl.SSLError, ConnectionError)):
        running.client(tls=certificates.client_named("alice", trustme.CA()))
    running.wait_until_no_sessions()


def test_an_unverified_certificate_does_not_count(serve: Serve, certificates: Certificates) -> None:
    """EXTERNAL is for contexts that verify; another shows no certificate at all."""
    handler = handler_of("async def", noted := Noted(), on_tls=None)
    running = serve(handler, tls_config=context_of(certificates), tls_listener=True)
    with running.ready(tls=certificates.client_named("alice")):
        pass
    ((session,),) = noted.of("on_tls")
    assert session.tls.peer_certificate is None


def test_anonymous_is_offered_when_it_is_enabled(serve: Serve, no_delay: None) -> None:
    handler = Known()
    with serve(handler).client() as client:
        assert "ANONYMOUS" not in mechanisms_in(client.hello())
    running = serve(handler, auth_mechs={"ANONYMOUS": True})
    with running.client() as client:
        assert mechanisms_in(client.hello())[-1] == "ANONYMOUS"
        assert client.say("AUTH ANONYMOUS =") == WRONG
        assert client.say("AUTH ANONYMOUS " + encoded("sirhc")) == ACCEPTED
    assert handler.seen == [ehlo.AnonymousCredentials(""), ehlo.AnonymousCredentials("sirhc")]


# -- one's own -----------------------------------------------------------------------------------


def ticket(initial: bytes | None, context: AuthContext) -> Steps:
    """A name, then a number that the server has asked for."""
    name = ((yield b"name?") if initial is None else initial).decode()
    number = context.nonce()
    if (yield number.encode()) != number.encode():
        return
    if not (yield ehlo.TokenCredentials(name, PASSWORD, mechanism="X-TICKET")):
        yield b"no ticket for you"


def own(
    run: Callable[[bytes | None, AuthContext], Steps | AsyncSteps] = ticket, **given: Any
) -> dict[str, Any]:
    return {"X-TICKET": Mechanism("X-TICKET", run, **given)}


def test_a_mechanism_of_your_own_logs_in(
    serve: Serve, certificates: Certificates, no_delay: None
) -> None:
    handler = Known()
    running = serve(
        handler, auth_mechs=own(), tls_config=context_of(certificates), tls_listener=True
    )
    with running.client(tls=certificates.client) as client:
        assert mechanisms_in(client.hello())[-1] == "X-TICKET"
        assert client.say("AUTH X-TICKET " + encoded("alice")).startswith("334 ")
        assert client.say(encoded("0")) == WRONG  # it has ended without credentials
        number = client.say("AUTH x-ticket " + encoded("bob"))[4:]
        assert client.say(number) == "334 " + encoded("no ticket for you")
        assert client.say("") == WRONG
    with running.ready(tls=certificates.client) as client:
        assert client.say("AUTH X-TICKET") == "334 " + encoded("name?")
        assert client.say(client.say(encoded("alice"))[4:]) == ACCEPTED


def test_a_mechanism_of_your_own_may_ask_for_secrets(serve: Serve, no_delay: None) -> None:
    def run(initial: bytes | None, _context: AuthContext) -> Steps:
        name = ((yield b"") if initial is None else initial).decode()
        secret = yield ehlo.SecretWanted(name)
        yield ehlo.PasswordCredentials(name, secret or "", mechanism="X-TICKET")

    running = serve(Known(), auth_mechs=own(run, needs_tls=False))
    with running.ready() as client:
        assert client.say("AUTH X-TICKET " + encoded("bob")) == WRONG
        assert client.say("AUTH X-TICKET " + encoded("alice")) == ACCEPTED


async def pin(initial: bytes | None, context: AuthContext) -> AsyncSteps:
    """Look the number up, as in a database, and note what becomes of the login."""
    asked = (yield b"pin?") if initial is None else initial
    await asyncio.sleep(0)
    if asked == b"none":
        return
    secret = (yield ehlo.SecretWanted("alice")) if asked == b"secret" else PASSWORD
    name = {b"1": "alice", b"secret": "alice"}.get(asked, "bob")
    accepted = yield ehlo.PasswordCredentials(name, secret, mechanism="X-TICKET")
    await asyncio.sleep(0)
    HEARD.append((asked, accepted))
    if not accepted:
        yield b"no user has this pin"


HEARD: list[tuple[bytes, bool]] = []


def test_a_mechanism_that_waits_logs_in(serve: Serve, loop_name: str, no_delay: None) -> None:
    HEARD.clear()
    running = serve(Known(), auth_mechs=own(pin, needs_tls=False), loop=loop_name)
    with running.ready() as client:
        assert client.say("AUTH X-TICKET " + encoded("none")) == WRONG
        assert client.say("AUTH X-TICKET " + encoded("2")) == "334 " + encoded(
            "no user has this pin"
        )
        assert client.say("") == WRONG
        assert client.say("AUTH X-TICKET") == "334 " + encoded("pin?")
        assert client.say("*").startswith("501 5.7.0")
        client.send(b"AUTH X-TICKET\r\n" + encoded("1").encode() + b"\r\nNOOP\r\n")
        assert client.replies(3) == ["334 " + encoded("pin?"), ACCEPTED, "250 2.0.0 Ok"]
    with running.ready() as client:
        assert client.say("AUTH X-TICKET " + encoded("secret")) == ACCEPTED
    assert HEARD == [(b"2", False), (b"1", True), (b"secret", True)]


async def fails_later(initial: bytes | None, _context: AuthContext) -> AsyncSteps:
    await asyncio.sleep(0)
    if initial == b"exit":
        raise SystemExit
    if initial == b"text":
        yield "text"  # type: ignore[misc]  # that is the point
    yield {b"last": ehlo.PasswordCredentials("alice", PASSWORD)}[initial or b""]
    raise RuntimeError("wonder")


@pytest.mark.parametrize("initial", ["first", "exit", "text"])
def test_an_async_mechanism_with_a_bug_is_454(
    serve: Serve, caplog: pytest.LogCaptureFixture, initial: str
) -> None:
    with serve(Known(), auth_mechs=own(fails_later, needs_tls=False)).ready() as client:
        for _ in range(5):
            assert client.say("AUTH X-TICKET " + encoded(initial)) == TROUBLE
        assert client.say("NOOP") == "250 2.0.0 Ok"
    assert "mechanism X-TICKET failed" in caplog.text


def test_a_login_that_is_accepted_stays_so_if_the_last_step_fails(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(Known(), auth_mechs=own(fails_later, needs_tls=False)).ready() as client:
        assert client.say("AUTH X-TICKET " + encoded("last")) == ACCEPTED
    assert "mechanism X-TICKET failed" in caplog.text


class Waiting:
    """A mechanism that waits for ever, at its first step or after the decision."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)

    async def run(self, initial: bytes | None, _context: AuthContext) -> AsyncSteps:
        try:
            if initial == b"last":
                yield ehlo.PasswordCredentials("alice", PASSWORD)
            elif initial == b"response":
                self.begun.release()
                yield b"?"
            self.begun.release()
            await asyncio.Event().wait()
        finally:
            self.ended.release()


@pytest.mark.parametrize(("initial", "reply"), [("first", TROUBLE), ("last", ACCEPTED)])
def test_a_step_has_the_deadline_of_a_hook(
    serve: Serve, clock: StoppedClock, loop_name: str, initial: str, reply: str
) -> None:
    hanging = Waiting()
    mechanism = own(hanging.run, needs_tls=False)
    running = serve(Known(), auth_mechs=mechanism, handler_timeout=20, loop=loop_name)
    with running.ready() as client:
        client.send(b"AUTH X-TICKET " + encoded(initial).encode() + b"\r\n")
        assert hanging.begun.acquire(timeout=DEADLINE)
        clock.advance(21)
        assert client.reply() == reply
        assert hanging.ended.acquire(timeout=DEADLINE)
        assert client.say("NOOP") == "250 2.0.0 Ok"


@pytest.mark.parametrize("initial", ["first", "response"])
def test_a_step_is_cancelled_when_the_client_leaves(
    serve: Serve, loop_name: str, initial: str
) -> None:
    hanging = Waiting()
    running = serve(Known(), auth_mechs=own(hanging.run, needs_tls=False), loop=loop_name)
    with running.ready() as client:
        client.send(b"AUTH X-TICKET " + encoded(initial).encode() + b"\r\n")
        assert hanging.begun.acquire(timeout=DEADLINE)
        if initial == "response":
            assert client.reply().startswith("334 ")
        client.reset()
    assert hanging.ended.acquire(timeout=DEADLINE)
    running.wait_until_no_sessions()


def fails(initial: bytes | None, _context: AuthContext) -> Steps:
    if initial is not None:
        raise RuntimeError("wonder")
    yield b""


def yields_nonsense(_initial: bytes | None, _context: AuthContext) -> Steps:
    yield "text"  # type: ignore[misc]  # that is the point


def wants_secrets(_initial: bytes | None, _context: AuthContext) -> Steps:
    yield ehlo.SecretWanted("alice")


def decides(_initial: bytes | None, _context: AuthContext) -> Steps:
    yield ehlo.AnonymousCredentials()


@pytest.mark.parametrize(
    ("run", "hooks", "logged"),
    [
        (fails, {"on_auth": None}, "mechanism X-TICKET failed"),
        (yields_nonsense, {"on_auth": None}, "mechanism X-TICKET failed"),
        (wants_secrets, {"on_auth": None}, "X-TICKET needs on_secret"),
        (decides, {"on_secret": None}, "X-TICKET needs on_auth"),
    ],
)
def test_a_mechanism_with_a_bug_is_454(
    serve: Serve, caplog: pytest.LogCaptureFixture, run: Any, hooks: dict[str, Any], logged: str
) -> None:
    handler = handler_of("async def", **hooks)
    with serve(handler, auth_mechs=own(run, needs_tls=False)).ready() as client:
        for _ in range(5):
            assert client.say("AUTH X-TICKET =") == TROUBLE
        assert client.say("NOOP") == "250 2.0.0 Ok"
    assert logged in caplog.text


def test_a_response_that_a_mechanism_cannot_read_is_501(serve: Serve) -> None:
    with serve(Known(), auth_mechs=own(needs_tls=False)).ready() as client:
        assert client.say("AUTH X-TICKET " + encoded(b"\xff")) == MALFORMED


def test_a_function_is_not_called_for_credentials_that_it_cannot_get(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    running = serve(Box(), auth_handler=lambda *_: True, auth_mechs=own(decides, needs_tls=False))
    with running.ready() as client:
        assert client.say("AUTH X-TICKET") == TROUBLE
    assert "auth_handler cannot check AnonymousCredentials" in caplog.text


# -- options -------------------------------------------------------------------------------------

HOOKED = handler_of("async def", on_auth=None, on_secret=None)
SECRETS_ONLY = handler_of("async def", on_secret=None)
NO_HOOKS = handler_of("async def")


MANY = [f"X{number:019}" for number in range(30)]


def accept(*_arguments: object) -> bool:
    return True


@pytest.mark.parametrize(
    ("handler", "options", "message"),
    [
        (SECRETS_ONLY, {"auth_mechs": {"XOAUTH2": True}}, "XOAUTH2 needs on_auth"),
        (NO_HOOKS, {"auth_mechs": {"anonymous": True}}, "ANONYMOUS needs on_auth"),
        (HOOKED, {"auth_mechs": {"EXTERNAL": True}}, "EXTERNAL needs client certificates"),
        (
            Box(),
            {"auth_handler": accept, "auth_mechs": {"ANONYMOUS": True}},
            "ANONYMOUS needs a Handler",
        ),
        (NO_HOOKS, {"auth_mechs": own()}, "X-TICKET needs on_auth or on_secret"),
        (HOOKED, {"auth_mechs": {"X-OTHER": own()["X-TICKET"]}}, "must be a valid name"),
        (HOOKED, {"auth_mechs": {"X Y": Mechanism("X Y", ticket)}}, "must be a valid name"),
        (HOOKED, {"auth_mechs": {"X" * 21: Mechanism("X" * 21, ticket)}}, "must be a valid name"),
        (HOOKED, {"auth_mechs": {"SCRAM-SHA-512": True}}, "unknown mechanism: SCRAM-SHA-512"),
        (HOOKED, {"auth_mechs": {"PLAIN": "off"}}, "PLAIN is 'off'; it must be True, False or an"),
        (HOOKED, {"auth_mechs": {"plain": 1}}, "PLAIN is 1; it must be True, False or an ehlo"),
        (
            HOOKED,
            {"auth_mechs": {name: Mechanism(name, ticket) for name in MANY}},
            "do not fit into one line",
        ),
        # what is left would never be offered
        (
            HOOKED,
            {"auth_required": True, "auth_mechs": {"SECRETS": False}},
            "no client could",
        ),
        (
            NO_HOOKS,
            {"auth_required": True, "auth_mechs": {"XOAUTH2": False}},
            "no client could",
        ),
    ],
)
def test_mechanisms_that_could_not_work_are_a_value_error_at_the_start(
    handler: Any, options: dict[str, Any], message: str
) -> None:
    if "SECRETS" in options["auth_mechs"]:
        names = ("SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5")
        options = options | {"auth_mechs": dict.fromkeys(names, False)}
    server = ehlo.Server(handler, addr="127.0.0.1:0", **options)
    with pytest.raises(ValueError, match=message), server.in_thread():
        pytest.fail("it has started")


ONLY_PLUS = dict.fromkeys(("SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5"), False)


def test_a_required_login_by_the_plus_forms_needs_a_binding(
    serve: Serve, certificates: Certificates
) -> None:
    def options(context: ssl.SSLContext) -> dict[str, Any]:
        return {"auth_required": True, "tls_config": context, "auth_mechs": ONLY_PLUS}

    serve(SECRETS_ONLY, **options(context_of(certificates)))
    serve(SECRETS_ONLY, **options(certificates.server()))  # TLS 1.2 is left to its clients
    newest = certificates.server()
    newest.minimum_version = ssl.TLSVersion.TLSv1_3
    with pytest.raises(ValueError, match="no client could"):
        serve(SECRETS_ONLY, **options(newest))
    with pytest.raises(ValueError, match="no client could"):
        serve(SECRETS_ONLY, auth_required=True, auth_mechs=ONLY_PLUS)


def test_scram_alone_is_a_way_to_log_in_without_tls(serve: Serve) -> None:
    running = serve(SECRETS_ONLY, auth_required=True, auth_mechs={"CRAM-MD5": False})
    with running.client() as client:
        assert mechanisms_in(client.hello()) == ["SCRAM-SHA-256", "SCRAM-SHA-1"]


def test_a_mechanism_of_your_own_replaces_the_built_in_one(serve: Serve) -> None:
    mine = Mechanism("PLAIN", ticket, needs_tls=False)
    with serve(Known(), auth_mechs={"plain": mine}).ready() as client:
        assert client.say("AUTH PLAIN") == "334 " + encoded("name?")


def test_a_missing_client_ca_is_an_os_error(certificates: Certificates) -> None:
    server = ehlo.Server(Known())
    with pytest.raises(OSError, match="No such file"):
        server.configure_tls(
            certificates.cert_file, certificates.key_file, client_ca="/nonexistent/ca.pem"
        )


def test_configure_tls_accepts_client_certificates_of_an_authority(
    certificates: Certificates,
) -> None:
    server = ehlo.Server(Known())
    server.configure_tls(certificates.cert_file, certificates.key_file)
    assert isinstance(server.options.tls_config, ssl.SSLContext)
    assert server.options.tls_config.verify_mode.name == "CERT_NONE"
    server.configure_tls(
        certificates.cert_file, certificates.key_file, client_ca=certificates.authority_file
    )
    assert server.options.tls_config.verify_mode.name == "CERT_OPTIONAL"


# -- failures ------------------------------------------------------------------------------------

Attempt = Callable[[Client], str]


def _rejected_token(command: str) -> Attempt:
    def attempt(client: Client) -> str:
        answer = client.say(command)
        return client.say("") if answer.startswith("334 ") else answer

    return attempt


def _bound(data: bytes) -> Attempt:
    return lambda client: scram(
        client, "alice", PASSWORD, "SCRAM-SHA-1-PLUS", ("tls-server-end-point", data)
    )


WRONG_LOGINS: dict[str, Attempt] = {
    "PLAIN": lambda client: client.say(plain("alice", "wrong")),
    "LOGIN": lambda client: login(client, "alice", "wrong"),
    "CRAM-MD5": lambda client: cram_md5(client, "alice", "wrong"),
    "SCRAM-SHA-1": lambda client: scram(client, "alice", "wrong", "SCRAM-SHA-1"),
    "SCRAM-SHA-256": lambda client: scram(client, "alice", "wrong", "SCRAM-SHA-256"),
    "SCRAM, for a stranger": lambda client: scram(client, "bob", PASSWORD),
    "SCRAM, as another": lambda client: client.say(
        "AUTH SCRAM-SHA-1 " + encoded("n,a=root,n=alice,r=abc")
    ),
    "SCRAM, a binding removed": lambda client: client.say(
        "AUTH SCRAM-SHA-1 " + encoded("y,,n=alice,r=abc")
    ),
    "SCRAM-SHA-1-PLUS, bound to another": _bound(b"another"),
    "SCRAM-SHA-1-PLUS, bound by another type": lambda client: client.say(
        "AUTH SCRAM-SHA-1-PLUS " + encoded("p=tls-exporter,,n=alice,r=abc")
    ),
    "XOAUTH2": _rejected_token(xoauth2("wrong")),
    "OAUTHBEARER": _rejected_token(oauthbearer("wrong")),
    "OAUTHBEARER, no token": _rejected_token("AUTH OAUTHBEARER " + encoded("n,,\x01\x01")),
    "EXTERNAL": lambda client: client.say("AUTH EXTERNAL " + encoded("bob")),
    "ANONYMOUS": lambda client: client.say("AUTH ANONYMOUS ="),
    "X-TICKET": _rejected_token("AUTH X-TICKET " + encoded("alice")),
}
EVERYTHING: dict[str, Any] = {
    **dict.fromkeys(("XOAUTH2", "OAUTHBEARER", "EXTERNAL", "ANONYMOUS"), True),
    **own(),
}


@pytest.mark.parametrize("way", WRONG_LOGINS)
def test_every_wrong_login_waits_and_the_sixth_is_the_last(
    serve: Serve, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    waited: list[object] = []

    def delay(_self: FailedLogins, key: str | None) -> float:
        waited.append(key)
        return 0.0

    monkeypatch.setattr(FailedLogins, "delay", delay)
    running = serve(
        Known(),
        tls_config=context_of(certificates, client_ca=True),
        tls_listener=True,
        auth_mechs=EVERYTHING,
    )
    with running.ready(tls=certificates.client_named("alice")) as client:
        for count in range(1, 7):
            assert WRONG_LOGINS[way](client) == WRONG
            assert len(waited) == count
        assert client.say("QUIT") == TOO_MANY
        assert client.is_closed()


@pytest.mark.parametrize("way", ["SCRAM-SHA-256", "XOAUTH2", "EXTERNAL"])
def test_a_wrong_login_waits_for_a_second_and_no_other_client_does(
    serve: Serve,
    certificates: Certificates,
    clock: StoppedClock,
    delays: queue.SimpleQueue[float],
    way: str,
) -> None:
    running = serve(
        Known(),
        tls_config=context_of(certificates, client_ca=True),
        tls_listener=True,
        auth_mechs=EVERYTHING,
    )
    alice = certificates.client_named("alice")
    with running.ready(tls=alice) as slow, running.ready(tls=alice) as other:
        waiting = threading.Thread(target=lambda: said.append(WRONG_LOGINS[way](slow)))
        said: list[str] = []
        waiting.start()
        assert delays.get(timeout=DEADLINE) == 1.0
        assert scram(other, "alice", PASSWORD) == ACCEPTED
        assert other.mail() == "250 2.0.0 Ok: queued"
        clock.advance(0.9)
        assert said == []
        clock.advance(0.2)
        waiting.join(DEADLINE)
        assert said == [WRONG]


def test_the_error_of_a_token_waits_like_a_rejection(
    serve: Serve, certificates: Certificates, clock: StoppedClock, delays: queue.SimpleQueue[float]
) -> None:
    """It reveals as much as the rejection; a client that gets it sooner could leave and retry."""
    running = serve(Known(), tls_config=certificates.server(), tls_listener=True, auth_mechs=TOKENS)
    with running.ready(tls=certificates.client) as client:
        client.send(f"{xoauth2('wrong')}\r\n".encode())
        assert delays.get(timeout=DEADLINE) == 1.0
        clock.advance(0.9)
        assert client.has_heard_nothing()
        clock.advance(0.2)
        assert client.reply().startswith("334 ")


# -- secrets -------------------------------------------------------------------------------------


def test_no_secret_of_any_mechanism_reaches_a_log(
    serve: Serve, certificates: Certificates, no_delay: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    lines: list[str] = []

    class Careless(Known):
        async def on_auth(self, session: Session, credentials: Credentials) -> str | None:
            logging.getLogger("careless").warning("%r %s", credentials, credentials)
            raise RuntimeError(f"no such user: {credentials!r}")

    running = serve(
        Careless(),
        tls_config=context_of(certificates),
        tls_listener=True,
        auth_mechs=TOKENS,
        debug=True,
        log_read=lambda _peer, _verb, line: lines.append(line),
        log_write=lambda _peer, _verb, line: lines.append(line),
    )
    with running.ready(tls=certificates.client) as client:
        client.say(xoauth2(PASSWORD))
        client.say(oauthbearer(PASSWORD))
        client.say("AUTH XOAUTH2")
        client.say(encoded(f"user=alice\x01auth=Bearer {PASSWORD}\x01\x01"))
        first = "n,,n=alice,r=fyko+d2lbbFgONRv9qkxdawL"
        challenge = client.say("AUTH SCRAM-SHA-256 " + encoded(first))[4:]
        client.say("*")
        scram(client, "alice", PASSWORD)
    logged = caplog.text + "\n".join(lines)
    assert "TokenCredentials(username='alice'" in logged
    assert "AUTH SCRAM-SHA-256 ****" in logged
    # With salt, nonces and signature one could try passwords
    assert challenge not in logged
    assert not [line for line in lines if line.startswith("334 ") and line[4:] not in ("", "****")]
    for disguise in disguises(PASSWORD):
        assert disguise not in logged.casefold(), disguise


# -- at the start: what guards fails closed, or says so -------------------------------------------

NO_TLS = "auth_handler has no mechanism without TLS; set tls_cert or auth_mechs={'PLAIN': True}"


def password(username: str, password: str) -> bool:
    return (username, password) == ("alice", "wonder")


def test_logins_that_need_tls_without_tls_are_a_warning_at_the_start(
    serve: Serve, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    running = serve(Box(), auth_handler=password)
    assert [record.message for record in caplog.records] == [NO_TLS]
    with running.ready() as client:
        assert client.say(plain("alice", "wonder")).startswith("504 5.5.4 ")
    caplog.clear()
    serve(Box(), auth_handler=password, auth_mechs={"PLAIN": True})
    serve(Box(), auth_handler=password, tls_config=certificates.server())
    serve(Box(), auth_handler=password, extensions={"AUTH": False})
    serve(Box(), auth_handler=accept)  # CRAM-MD5
    serve(Box())
    serve(SECRETS_ONLY)
    assert caplog.records == []
    serve(Box(), auth_handler=accept, auth_mechs={"CRAM-MD5": False})
    without_starttls = {"STARTTLS": False}
    serve(
        Box(),
        auth_handler=password,
        tls_config=certificates.server(),
        extensions=without_starttls,
    )
    serve(Known(), auth_mechs=dict.fromkeys(("SCRAM-SHA-1", "SCRAM-SHA-256", "CRAM-MD5"), False))
    said = [record.message.partition(" has ")[0] for record in caplog.records]
    assert said == ["auth_handler", "auth_handler", "on_auth"]


@pytest.mark.parametrize("options", [{}, {"tls": True, "extensions": {"STARTTLS": False}}])
def test_a_required_login_that_needs_tls_without_tls_is_a_value_error(
    certificates: Certificates, options: dict[str, Any]
) -> None:
    options = dict(options)
    context = certificates.server() if options.pop("tls", False) else None
    server = ehlo.Server(
        Box(),
        addr="127.0.0.1:0",
        auth_handler=password,
        auth_required=True,
        tls_config=context,
        **options,
    )
    with pytest.raises(ValueError, match=re.escape(NO_TLS)), server.in_thread():
        pytest.fail("it has started")


@pytest.mark.parametrize("listener", [False, True])
def test_client_certificates_that_are_required_need_tls_that_is_required(
    serve: Serve, certificates: Certificates, listener: bool
) -> None:
    def make() -> ssl.SSLContext:
        context = context_of(certificates, client_ca=True)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    for config in (make, make()):
        server = ehlo.Server(Box(), addr="127.0.0.1:0", tls_config=config)
        with (
            pytest.raises(ValueError, match="mail is accepted without TLS; set tls_required"),
            server.in_thread(),
        ):
            pytest.fail("it has started")
    running = serve(Box(), tls_config=make(), tls_required=True, tls_listener=listener)
    assert running.server.addresses


def test_client_certificates_are_checked_for_each_listener(certificates: Certificates) -> None:
    server = ehlo.Server(
        Box(),
        listeners=[
            ehlo.Listener("127.0.0.1:0", tls_required=True),
            ehlo.Listener("127.0.0.1:0", tls_listener=True),
            ehlo.Listener("127.0.0.1:0"),
        ],
    )
    server.configure_tls(
        certificates.cert_file,
        certificates.key_file,
        client_ca=certificates.authority_file,
        client_certs="required",
    )
    with pytest.raises(ValueError, match="accepted without TLS"), server.in_thread():
        pytest.fail("it has started")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"auth_mechs": {"CRAM-MD5": True}},
            "CRAM-MD5 needs on_secret, or an auth_handler",
        ),
        ({"auth_mechs": {"SCRAM-SHA-1": True}}, "SCRAM-SHA-1 needs on_secret"),
        ({"auth_mechs": {"PLAIN": False, "plain": True}}, "a name occurs twice"),
        ({"auth_mechs": {"XOAUTH2": True}}, "XOAUTH2 needs an auth_handler of five parameters, or"),
        (
            {"auth_mechs": {"ANONYMOUS": True}},
            "ANONYMOUS needs a Handler with on_auth$",
        ),
    ],
)
def test_a_mechanism_that_two_parameters_cannot_serve_is_a_value_error(
    options: dict[str, Any], message: str
) -> None:
    server = ehlo.Server(Box(), addr="127.0.0.1:0", auth_handler=password, **options)
    with pytest.raises(ValueError, match=message), server.in_thread():
        pytest.fail("it has started")


def test_scram_needs_keys_in_the_password_file(tmp_path: Path) -> None:
    ehlo.PasswordFile(tmp_path / "users").set("alice", "wonder", "scram-sha-1")
    for name in ("SCRAM-SHA-256", "CRAM-MD5"):
        server = ehlo.Server(
            Box(),
            addr="127.0.0.1:0",
            auth_file=str(tmp_path / "users"),
            auth_mechs={name: True, "SCRAM-SHA-1": True},
        )
        with pytest.raises(ValueError, match=f"auth_mechs: {name} needs"), server.in_thread():
            pytest.fail("it has started")


# -- SCRAM does not work in the loop --------------------------------------------------------------


def test_keys_are_derived_in_a_thread(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, no_delay: None
) -> None:
    threads: list[str] = []
    derive = hashlib.pbkdf2_hmac

    def noted(*arguments: Any) -> bytes:
        threads.append(threading.current_thread().name)
        return derive(*arguments)

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", noted)
    with serve(Known()).ready() as client:
        for user in ("nobody", "alice"):
            client.say("AUTH SCRAM-SHA-256 " + encoded(f"n,,n={user},r=abc"))
            client.say("*")
    assert len(threads) == 2
    assert all(name.startswith("ehlo-login-") for name in threads)


def test_a_mechanism_of_your_own_may_derive_in_a_thread(
    serve: Serve, no_delay: None, caplog: pytest.LogCaptureFixture
) -> None:
    threads: list[str] = []

    def derive(secret: Secret) -> object:
        threads.append(threading.current_thread().name)
        if secret is None:
            raise RuntimeError("nobody")
        return secret

    def run(initial: bytes | None, _context: AuthContext) -> Steps:
        name = (initial or b"").decode()
        if (yield ehlo.SecretWanted(name, derive)) == PASSWORD:
            yield ehlo.PasswordCredentials(name, PASSWORD)

    mechanism = Mechanism("X-DERIVES", run, needs_tls=False)
    running = serve(Known(), auth_mechs={"X-DERIVES": mechanism})
    with running.ready() as client:
        assert client.say("AUTH X-DERIVES " + encoded("bob")) == TROUBLE
        assert client.say("AUTH X-DERIVES " + encoded("alice")) == ACCEPTED
    assert all(name.startswith("ehlo-login-") for name in threads)
    assert "nobody" in caplog.text


def test_a_name_of_2_kb_that_grows_when_it_is_prepared_is_malformed(serve: Serve) -> None:
    name = "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}" * 255
    with serve(Known()).ready() as client:
        for first in (f"n,a={name},n=alice,r=abc", f"n,,n={name},r=abc"):
            assert client.say("AUTH SCRAM-SHA-256 " + encoded(first)) == MALFORMED
