"""Several listeners of one server, each with rules of its own."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from ehlo import Handler, Listener, Server, Session
from ehlo.passwords.file import PasswordFile
from ehlo.server.options.config import ListenerOptions, Options
from ehlo.server.options.rules import per_listener, resolve, resolve_all
from ehlo.server.options.target import callbacks_of
from support.certificates import Certificates
from support.client import Client
from support.clock import StoppedClock
from support.hooks import handler_of
from support.serving import Box, Collector, Serve

ANY = "127.0.0.1:0"


def listen(serve: Serve, handler: Any, *listeners: Listener, **options: Any) -> Any:
    return serve(handler, addr=":25", listeners=listeners, **options)


def test_each_listener_has_its_own_rules(
    serve: Serve, certificates: Certificates, tmp_path: Path, loop_name: str
) -> None:
    box = Box()
    running = listen(
        serve,
        box,
        Listener(ANY),
        Listener(ANY, tls_listener=True, max_size=10_000),
        Listener(ANY, auth_required=True, tls_required=True),
        Listener(f"unix:{tmp_path / 'lmtp'}", lmtp=True, tls_config=None),
        Listener([ANY, ANY], appname="Many"),
        tls_config=certificates.server(),
        auth_handler=lambda *_: True,
        max_size=5_000,
        loop=loop_name,
    )
    plain, tls, login, lmtp, *many = running.server.addresses
    with Client(plain) as client:
        assert "250 SIZE 5000" in client.hello().replace("250-", "250 ").splitlines()
        assert client.mail() == "250 2.0.0 Ok: queued"
    with Client(tls, tls=certificates.client) as client:
        assert "250 SIZE 10000" in client.hello().replace("250-", "250 ").splitlines()
    with Client(login) as client:
        client.hello()
        assert client.say("MAIL FROM:<a@example.com>").startswith("530 5.7.0 Must issue")
        client.say("STARTTLS")
        client.wrap(certificates.client)
        client.say("EHLO c")
        assert client.say("MAIL FROM:<a@example.com>") == "530 5.7.0 Authentication required"
    with Client(lmtp) as client:
        assert " LMTP " in client.reply()
        assert "STARTTLS" not in client.say("LHLO c")
        assert client.mail() == "250 2.0.0 Ok: queued"
    for address in many:
        with Client(address) as client:
            assert " Many " in client.reply()
    assert len(many) == 2
    assert len(box.mails) == 2


def test_proxies_are_those_of_a_listener(serve: Serve) -> None:
    collector = Collector()
    running = listen(serve, collector, Listener(ANY), Listener(ANY, proxy_networks=["127.0.0.0/8"]))
    open_to_all, behind = running.server.addresses
    with Client(open_to_all) as client:
        client.hello()
        client.mail()
    with Client(behind) as client:
        client.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 25\r\n")
        client.hello()
        client.mail()
    assert [session.peer.host for session in collector.sessions] == ["127.0.0.1", "192.0.2.1"]


def test_a_session_has_the_address_that_accepted_it(serve: Serve) -> None:
    collector = Collector()
    running = listen(serve, collector, Listener(ANY), Listener(ANY))
    for address in running.server.addresses:
        with Client(address) as client:
            client.hello()
            client.mail()
    assert [session.local for session in collector.sessions] == running.server.addresses


def test_each_listener_has_its_own_timeout(serve: Serve, clock: StoppedClock) -> None:
    running = listen(serve, Box(), Listener(ANY), Listener(ANY, timeout=20))
    slow, quick = running.server.addresses
    with Client(slow) as patient, Client(quick) as client:
        client.hello()
        patient.hello()
        clock.advance(22)
        assert client.reply().startswith("421 4.4.2 ")
        assert patient.say("NOOP").startswith("250 ")


def test_on_startup_is_called_once(serve: Serve) -> None:
    told: list[str] = []

    class Telling(Handler):
        async def on_startup(self, server: Server) -> None:
            told.append("startup")

        async def on_message(self, session: Session, message: object) -> None: ...

    running = listen(serve, Telling(), Listener(ANY), Listener(ANY))
    for address in running.server.addresses:
        with Client(address) as client:
            client.hello()
    assert told == ["startup"]


def test_a_password_file_is_read_once_for_all_listeners(tmp_path: Path) -> None:
    users = tmp_path / "users"
    PasswordFile(users).set("alice", "wonder")
    server = Server(
        Box(),
        listeners=[
            Listener(":587", auth_file=str(users)),
            Listener(":465", auth_file=str(users)),
            Listener(":25"),
        ],
        auth_mechs={"PLAIN": True},
    )
    first, second, third = resolve_all(server.options, callbacks_of(server.options))
    assert first.passwords is second.passwords is not None
    assert third.passwords is None


def test_a_listener_that_cannot_be_bound_leaves_no_other_bound(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        server = Server(Box(), listeners=[Listener(f"unix:{path}"), Listener(f"127.0.0.1:{port}")])
        with pytest.raises(OSError, match=f"127.0.0.1:{port}"), server.in_thread():
            pytest.fail("it has started")
    assert not path.exists()
    assert server.addresses == []


def test_each_unix_socket_has_its_own_mode_and_a_stale_one_is_replaced(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("plain", "other")]
    for path in paths:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
    server = Server(
        Box(),
        unix_mode="600",
        listeners=[Listener(f"unix:{paths[0]}"), Listener(f"unix:{paths[1]}", unix_mode="666")],
    )
    with server.in_thread():
        assert [path.stat().st_mode & 0o777 for path in paths] == [0o600, 0o666]
        for address in server.addresses:
            with Client(address) as client:
                client.hello()
    assert not any(path.exists() for path in paths)


def test_a_client_over_streams_is_served_by_the_rules_of_the_server(serve: Serve) -> None:
    running = listen(serve, Box(), Listener(ANY, appname="Listener"), appname="Own")
    run = running.server.running
    assert run is not None

    async def own() -> str:
        return str(run.new_driver().routes.rules.settings.appname)

    assert running.run(own) == "Own"


@pytest.mark.parametrize(
    "name",
    ["handler", "addr", "listeners", "threads", "max_memory", "max_connections", "loop", "grace"],
)
def test_an_option_of_the_whole_server_is_a_value_error(name: str) -> None:
    given: dict[str, Any] = {name: 1}
    with pytest.raises((ValueError, TypeError), match=name):
        Listener(ANY, **given)


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="tls_listner"):
        Listener(ANY, tls_listner=True)  # type: ignore[call-arg]  # which is the point


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"addr": ":2525", "listeners": [Listener(ANY)]}, "addr cannot be combined"),
        (
            {"listeners": [Listener(ANY), Listener(ANY, tls_required=True)]},
            "tls_required needs",
        ),
        ({"listeners": [Listener(":25", lmtp=True)]}, "port 25"),
        ({"listeners": [Listener(ANY, max_size=-1)]}, "max_size"),
        ({"listeners": [Listener("nonsense")]}, "not an address"),
        ({"listeners": [Listener(ANY)], "threads": 0}, "threads"),
    ],
)
def test_unsafe_options_are_rejected_before_any_listener_is_bound(
    options: dict[str, Any], message: str
) -> None:
    server = Server(Box(), **options)
    with pytest.raises(ValueError, match=message), server.in_thread():
        pytest.fail("it has started")


def test_anything_but_a_listener_is_a_type_error() -> None:
    server = Server(Box(), listeners=[":25"])  # type: ignore[list-item]  # which is the point
    with pytest.raises(TypeError, match="Listener"):
        per_listener(server.options)


def test_an_auth_file_of_a_listener_with_on_auth_is_a_type_error(tmp_path: Path) -> None:
    handler = handler_of("async def", on_auth="alice")
    server = Server(handler, listeners=[Listener(ANY, auth_file=str(tmp_path / "users"))])
    with pytest.raises(TypeError, match="auth_file cannot be combined"), server.in_thread():
        pytest.fail("it has started")


def test_a_socket_of_your_own_with_listeners_is_a_value_error() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as own,
        pytest.raises(ValueError, match="either listeners or a socket"),
    ):
        Server(Box(), listeners=[Listener(ANY)]).serve(own)


OTHER: dict[str, Any] = {
    "appname": "Other",
    "hostname": "other.example",
    "lmtp": True,
    "tls_listener": True,
    "tls_required": True,
    "auth_required": True,
    "proxy_networks": ["::1"],
    "xclient_networks": ["::1"],
    "xforward_networks": ["::1"],
    "auth_mechs": {"PLAIN": True},
    "bare_newlines": "reject",
    "strict_eol": True,
    "lenient_addresses": True,
    "unknown_params": "ignore",
    "extensions": {"DSN": True},
    "reverse_dns": True,
    "debug": True,
    "transcripts": "masked",
    "log_read": print,
    "log_write": print,
}


@pytest.mark.parametrize(
    "name",
    sorted(
        ListenerOptions.__optional_keys__
        - {"auth_file", "tls_cert", "tls_key", "tls_config", "own_extensions", "unix_mode"}
    ),
)
def test_each_option_of_a_listener_changes_its_rules(name: str, certificates: Certificates) -> None:
    value = OTHER.get(name, 7)
    server = Server(
        Box(),
        listeners=[Listener(ANY), Listener(ANY, **{name: value})],
        tls_config=certificates.server(),
        auth_handler=lambda *_: True,
    )
    handler = callbacks_of(server.options)

    def facts(rules: Any) -> dict[str, Any]:
        own = {each: getattr(rules, each) for each in rules.__slots__}
        settings = own.pop("settings")
        own |= {each: getattr(settings, each) for each in settings.__dataclass_fields__}
        random = ("salt_key", "nonce", "tls", "mechanisms")
        return {each: str(value) for each, value in own.items() if each not in random}

    plain, other = (resolve(each, handler) for each in per_listener(server.options))
    assert facts(plain) != facts(other)


@pytest.mark.parametrize(
    ("preset", "addr", "options"),
    [
        (Listener.submission, ":587", {"tls_required": True, "auth_required": True}),
        (Listener.submissions, ":465", {"tls_listener": True, "auth_required": True}),
    ],
)
def test_the_presets_for_submission_require_tls_and_logins(
    preset: Any, addr: str, options: dict[str, bool]
) -> None:
    assert (preset().addr, preset().overrides) == (addr, options)
    other = preset(("127.0.0.1", 2525), auth_required=False, max_size="50MB")
    assert other.addr == ("127.0.0.1", 2525)
    assert other.overrides == options | {"auth_required": False, "max_size": "50MB"}
    with pytest.raises(TypeError, match="tls_listner"):
        preset(":587", tls_listner=True)


def test_a_submission_listener_wants_tls_then_a_login(
    serve: Serve, certificates: Certificates
) -> None:
    running = serve(
        Box(),
        addr=Options.addr,
        listeners=[Listener.submission("127.0.0.1:0"), Listener.submissions(("127.0.0.1", 0))],
        tls_cert=certificates.cert_file,
        tls_key=certificates.key_file,
        auth_handler=lambda user, password: password == "secret",
    )
    starttls, implicit = running.server.addresses
    with Client(starttls) as client:
        client.hello()
        assert client.say("AUTH PLAIN AGJvYgBzZWNyZXQ=").startswith("530 5.7.0 Must issue a STARTT")
        assert client.say("MAIL FROM:<a@example.com>").startswith("530 5.7.0 Must issue a STARTT")
        assert client.say("STARTTLS").startswith("220 ")
        client.wrap(certificates.client)
        client.say("EHLO client.example")
        assert client.say("MAIL FROM:<a@example.com>") == "530 5.7.0 Authentication required"
        assert client.say("AUTH PLAIN AGJvYgBzZWNyZXQ=").startswith("235 2.7.0")
        assert client.mail() == "250 2.0.0 Ok: queued"
    with Client(implicit, tls=certificates.client) as client:
        client.hello()
        assert client.say("MAIL FROM:<a@example.com>") == "530 5.7.0 Authentication required"
        assert client.say("AUTH PLAIN AGJvYgBzZWNyZXQ=").startswith("235 2.7.0")
        assert client.mail() == "250 2.0.0 Ok: queued"


def test_the_certificate_of_a_listener_replaces_that_of_the_server() -> None:
    def context() -> Any: ...

    server = Server(
        Box(),
        tls_cert="server.pem",
        tls_key="server.key",
        listeners=[
            Listener(ANY),
            Listener(ANY, tls_cert="other.pem"),
            Listener(ANY, tls_config=context),
        ],
    )
    found = [
        (each.tls_cert, each.tls_key, each.tls_config) for each in per_listener(server.options)
    ]
    assert found == [
        ("server.pem", "server.key", None),
        ("other.pem", (), None),
        ((), (), context),
    ]


def test_a_listener_shows_its_address() -> None:
    assert repr(Listener(ANY, debug=True)) == f"Listener({ANY!r})"
