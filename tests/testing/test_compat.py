"""`ehlo.testing.compat`: what tests written for smtpdfix and pytest-localserver find and do."""

from __future__ import annotations

import base64
import os
import smtplib
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from email.message import EmailMessage, Message
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ehlo.testing.compat import AuthController, Config, Server, SMTPDFix
from ehlo.testing.compat import smtpd as smtpd
from ehlo.testing.compat import smtpserver as smtpserver
from support.examples import quick
from support.ports import reserved_port

TIMEOUT = 60.0


def mail(to: str = "to@example.org", **fields: str) -> EmailMessage:
    """Return a mail with an attachment."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "from@example.org", to, "Foo"
    for name, value in fields.items():
        message[name] = value
    message.set_content("foo bar")
    message.add_attachment(b"\x00\x01", "application", "octet-stream", filename="x.bin")
    return message


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def connect(smtpd: AuthController) -> smtplib.SMTP:
    client = smtplib.SMTP(smtpd.hostname, smtpd.port, "localhost", TIMEOUT)
    client.ehlo()
    return client


def trusting(smtpd: AuthController) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.load_verify_locations(smtpd.config.ssl_cert_files[0])
    return context


# -- smtpd: messages -------------------------------------------------------------------------------


def test_the_address_is_localhost_and_a_port(smtpd: AuthController) -> None:
    assert smtpd.hostname == "localhost"
    assert isinstance(smtpd.port, int)
    assert smtpd.port == smtpd.config.port > 0
    with smtplib.SMTP(smtpd.hostname, smtpd.port, timeout=TIMEOUT) as client:
        assert client.noop()[0] == 250


def test_messages_are_parsed_and_have_the_envelope_in_three_fields(smtpd: AuthController) -> None:
    with connect(smtpd) as client:
        client.send_message(mail(), to_addrs=["to@example.org", "hidden@example.org"])
        peer = client.sock.getsockname()  # type: ignore[union-attr]  # it is connected
    assert len(smtpd.messages) == 1
    (message,) = smtpd.messages
    assert type(message) is Message
    assert (message["To"], message["From"], message["Subject"]) == (
        *("to@example.org", "from@example.org", "Foo"),
    )
    assert message["X-MailFrom"] == "from@example.org"
    assert message["X-RcptTo"] == "to@example.org, hidden@example.org"
    assert message["X-Peer"] == str(peer)
    parts = list(message.walk())
    assert [part.get_content_type() for part in parts] == [
        *("multipart/mixed", "text/plain", "application/octet-stream")
    ]
    assert str(parts[1].get_payload()).splitlines() == ["foo bar"]
    assert parts[2].get_payload(decode=True) == b"\x00\x01"


def test_messages_is_a_copy(smtpd: AuthController) -> None:
    with connect(smtpd) as client:
        client.send_message(mail())
    smtpd.messages.clear()
    assert len(smtpd.messages) == 1
    assert smtpd.messages is not smtpd.messages


# -- smtpd: settings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("yes", "no"),
    [("True", "False"), ("true", "off"), ("1", "0"), ("yes", "n"), (1, 0), (True, None)],
)
@pytest.mark.parametrize("name", ["use_starttls", "use_ssl", "enforce_auth", "auth_require_tls"])
def test_switches_take_text_and_numbers(name: str, yes: object, no: object) -> None:
    config = Config()
    for value, expected in ((yes, True), (no, False)):
        setattr(config, name, value)
        assert getattr(config, name) is expected
    with pytest.raises(ValueError, match="is neither true nor false; write True or False"):
        setattr(config, name, "maybe")


def test_the_defaults_are_those_of_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config()
    assert (config.host, config.ready_timeout) == ("localhost", 10.0)
    assert (config.login_username, config.login_password) == ("user", "password")
    assert (config.enforce_auth, config.auth_require_tls) == (False, True)
    assert (config.use_starttls, config.use_ssl) == (False, False)
    assert config.ssl_cert_files == (None, None)
    for name, value in {
        "HOST": "127.0.0.1",
        "PORT": "2525",
        "READY_TIMEOUT": "2.5",
        "LOGIN_NAME": "alice",
        "LOGIN_PASSWORD": "wonder",
        "ENFORCE_AUTH": "True",
        "AUTH_REQUIRE_TLS": "no",
        "USE_STARTTLS": "1",
        "USE_TLS": "on",
        "SSL_CERTIFICATE_FILE": __file__,
        "SSL_KEY_FILE": __file__,
    }.items():
        monkeypatch.setenv(f"SMTPD_{name}", value)
    config = Config()
    assert (config.host, config.port, config.ready_timeout) == ("127.0.0.1", 2525, 2.5)
    assert (config.login_username, config.login_password) == ("alice", "wonder")
    assert (config.enforce_auth, config.auth_require_tls) == (True, False)
    assert (config.use_starttls, config.use_ssl) == (True, True)
    assert config.ssl_cert_files == (__file__, __file__)


def test_a_certificate_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        Config().ssl_cert_files = "none.pem"
    monkeypatch.setenv("SMTPD_SSL_CERTIFICATE_FILE", "none.pem")
    with pytest.raises(FileNotFoundError):
        Config()


def test_the_variables_decide_for_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTPD_ENFORCE_AUTH", "True")
    with SMTPDFix() as smtpd, connect(smtpd) as client:
        assert client.mail("from@example.org")[0] == 530


def test_settings_change_while_it_runs_and_the_port_and_the_mails_stay(
    smtpd: AuthController, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = smtpd.port
    with connect(smtpd) as client:
        client.send_message(mail())
        smtpd.config.enforce_auth = True
        client.send_message(mail())  # a connection has the settings of its beginning
    with connect(smtpd) as client:
        assert client.mail("from@example.org") == (530, b"5.7.0 Authentication required")
    monkeypatch.setattr(smtpd.config, "enforce_auth", False)
    with connect(smtpd) as client:
        client.send_message(mail())
    assert (smtpd.port, len(smtpd.messages)) == (port, 3)


def test_monkeypatch_puts_a_setting_back(smtpd: AuthController) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smtpd.config, "use_starttls", True)
        with connect(smtpd) as client:
            assert client.has_extn("starttls")
    with connect(smtpd) as client:
        assert not client.has_extn("starttls")


@pytest.mark.parametrize("name", ["enforce_auth", "use_starttls"])
def test_a_setting_may_be_patched_in_the_class(smtpd: AuthController, name: str) -> None:
    with mock.patch.object(Config, name, True), connect(smtpd) as client:
        assert client.mail("from@example.org")[0] == 530
    with connect(smtpd) as client:
        assert client.mail("from@example.org")[0] == 250


def test_another_host_or_port_starts_the_server_again_and_keeps_the_mails(
    smtpd: AuthController,
) -> None:
    with connect(smtpd) as client:
        client.send_message(mail())
    with SMTPDFix() as other:
        free = other.port
    smtpd.config.port = str(free)
    smtpd.config.host = "127.0.0.1"
    assert (smtpd.hostname, smtpd.port) == ("127.0.0.1", free)
    with connect(smtpd) as client:
        client.send_message(mail())
    assert len(smtpd.messages) == 2


def test_reset_may_forget_the_messages(smtpd: AuthController) -> None:
    port = smtpd.port
    for persists, count in ((True, 1), (False, 0)):
        with connect(smtpd) as client:
            client.send_message(mail()) if persists else client.noop()
        smtpd.reset(persist_messages=persists)
        assert (len(smtpd.messages), smtpd.port) == (count, port)


# -- smtpd: TLS ------------------------------------------------------------------------------------


def test_with_starttls_mail_needs_it(smtpd: AuthController) -> None:
    smtpd.config.use_starttls = True
    with connect(smtpd) as client:
        assert client.mail("from@example.org")[0] == 530
        client.starttls(context=trusting(smtpd))
        client.send_message(mail())
    assert len(smtpd.messages) == 1


def test_with_ssl_the_connection_begins_with_tls(smtpd: AuthController) -> None:
    smtpd.config.use_ssl = True
    context = trusting(smtpd)
    with smtplib.SMTP_SSL(smtpd.hostname, smtpd.port, timeout=TIMEOUT, context=context) as client:
        client.send_message(mail())
    assert len(smtpd.messages) == 1


def test_starttls_comes_before_ssl(smtpd: AuthController) -> None:
    smtpd.config.use_ssl = smtpd.config.use_starttls = True
    with connect(smtpd) as client:
        assert client.has_extn("starttls")


def test_a_certificate_of_ones_own_may_be_set(smtpd: AuthController, tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    smtpd.config.ssl_cert_files = (str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
    smtpd.config.use_ssl = True
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with smtplib.SMTP_SSL("localhost", smtpd.port, timeout=TIMEOUT, context=context) as client:
        assert client.noop()[0] == 250


def test_a_context_of_ones_own_comes_before_the_files(smtpd: AuthController) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(str(smtpd.config.ssl_cert_files[0]))
    config = Config()
    config.use_ssl = True
    other = AuthController(hostname="localhost", config=config, ssl_context=context)
    other.start()
    with smtplib.SMTP_SSL("localhost", other.port, context=trusting(smtpd)) as client:
        assert client.noop()[0] == 250
    other.stop()


def test_a_client_that_speaks_no_tls_is_disconnected(
    smtpd: AuthController, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ehlo.testing.loopback.HANDSHAKE", 0.001)
    smtpd.config.use_ssl = True
    with pytest.raises(smtplib.SMTPServerDisconnected):
        connect(smtpd)


# -- smtpd: logins ---------------------------------------------------------------------------------


def test_a_login_needs_tls_by_default(smtpd: AuthController) -> None:
    with connect(smtpd) as client:
        assert not client.has_extn("auth")
        for name in ("PLAIN", "LOGIN", "CRAM-MD5"):
            code, text = client.docmd("AUTH", name)
            assert code == 538, text


@pytest.mark.parametrize("tls", ["use_starttls", "use_ssl"])
def test_under_tls_a_login_works(smtpd: AuthController, tls: str) -> None:
    setattr(smtpd.config, tls, True)
    context = trusting(smtpd)
    client: smtplib.SMTP
    if tls == "use_ssl":
        client = smtplib.SMTP_SSL("localhost", smtpd.port, timeout=TIMEOUT, context=context)
    else:
        client = connect(smtpd)
        client.starttls(context=context)
    with client:
        assert client.login("user", "password")[0] == 235
        assert client.send_message(mail()) == {}


def open_logins(smtpd: AuthController) -> smtplib.SMTP:
    smtpd.config.auth_require_tls = False
    return connect(smtpd)


@pytest.mark.parametrize(
    "log_in",
    [
        lambda it: it.auth("CRAM-MD5", it.auth_cram_md5),
        lambda it: it.auth("PLAIN", it.auth_plain),
        lambda it: it.auth("LOGIN", it.auth_login),
        lambda it: it.docmd("AUTH", f"PLAIN {b64('user password')}"),
        lambda it: (it.docmd("AUTH", "PLAIN"), it.docmd(b64("user password")))[1],
        lambda it: (it.docmd("AUTH", "PLAIN"), it.docmd(b64("\0user\0password")))[1],
        lambda it: (it.docmd("AUTH", f"LOGIN {b64('user')}"), it.docmd(b64("password")))[1],
    ],
)
@pytest.mark.parametrize("password", ["password", "another"])
def test_each_mechanism_checks_the_two_settings(
    smtpd: AuthController, log_in: Callable[[smtplib.SMTP], tuple[int, bytes]], password: str
) -> None:
    smtpd.config.login_password = password
    with open_logins(smtpd) as client:
        client.user, client.password = "user", "password"
        try:
            code, text = log_in(client)
        except smtplib.SMTPAuthenticationError as error:
            code, text = error.smtp_code, error.smtp_error  # type: ignore[assignment]  # bytes
        if password == "password":
            assert code == 235
            assert client.docmd("AUTH", "PLAIN")[0] == 503  # not twice
        else:
            assert (code, text[:5]) == (535, b"5.7.8")


def test_settings_of_the_login_change_while_it_runs(smtpd: AuthController) -> None:
    smtpd.config.login_username, smtpd.config.login_password = "alice", "wonder"
    with open_logins(smtpd) as client:
        assert client.login("alice", "wonder")[0] == 235


def test_what_is_no_login_has_its_reply(smtpd: AuthController) -> None:
    with open_logins(smtpd) as client:
        assert client.docmd("AUTH", "NOPE")[0] == 504
        assert client.docmd("AUTH")[0] == 501
        assert client.docmd("AUTH", "LOGIN")[0] == 334
        assert client.docmd("*")[0] == 501
        assert client.docmd("AUTH", f"PLAIN {b64('user')}")[0] == 501


def test_with_enforced_logins_mail_is_530_before_one(smtpd: AuthController) -> None:
    smtpd.config.enforce_auth = True
    with open_logins(smtpd) as client:
        for command in ("MAIL FROM:<a@example.org>", "RCPT TO:<b@example.org>", "DATA"):
            assert client.docmd(command) == (530, b"5.7.0 Authentication required")
        client.login("user", "password")
        client.send_message(mail())
    assert len(smtpd.messages) == 1


def test_an_authenticator_of_ones_own_checks_logins() -> None:
    class Authenticator:
        def validate(self, username: str, password: str) -> bool:
            return (username, password) == ("bob", "builder")

        def get_password(self, username: str) -> str:
            return "builder" if username == "bob" else ""

    smtpd = AuthController(hostname="127.0.0.1", ready_timeout=60, authenticator=Authenticator())
    smtpd.config.auth_require_tls = False
    smtpd.start()
    try:
        for method in ("auth_plain", "auth_cram_md5"):
            with connect(smtpd) as client:
                client.user, client.password = "bob", "builder"
                name = method[5:].upper().replace("_", "-")
                assert client.auth(name, getattr(client, method))[0] == 235
        with connect(smtpd) as client, pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("user", "password")
    finally:
        smtpd.stop()


# -- smtpd: its life -------------------------------------------------------------------------------


def test_the_context_manager_takes_host_and_port_and_settings() -> None:
    config = Config()
    config.login_username = "alice"
    port = reserved_port()
    with SMTPDFix("127.0.0.1", port, config) as smtpd:
        assert (smtpd.hostname, smtpd.port) == ("127.0.0.1", port)
        assert smtpd.config is config
        with connect(smtpd) as client:
            client.send_message(mail())
    assert len(smtpd.messages) == 1  # which can be read behind the end
    with pytest.raises(ConnectionRefusedError):
        smtplib.SMTP("127.0.0.1", port, timeout=TIMEOUT)


def test_a_server_is_started_once_and_stopped_as_often_as_one_likes() -> None:
    smtpd = AuthController(hostname="127.0.0.1")
    smtpd.stop()
    for _ in range(3):
        smtpd.start()
        with pytest.raises(RuntimeError, match="already running"):
            smtpd.start()
        with connect(smtpd) as client:
            client.send_message(mail())
        smtpd.stop()
        smtpd.stop()
    assert len(smtpd.messages) == 3


def test_a_port_that_is_taken_is_an_error_and_leaves_nothing(smtpd: AuthController) -> None:
    before = threading.active_count()
    with pytest.raises(OSError, match="in use"), SMTPDFix("127.0.0.1", smtpd.port):
        pytest.fail("it listens")
    assert threading.active_count() == before


# -- smtpserver ------------------------------------------------------------------------------------


def test_the_outbox_is_the_live_list_and_has_details(smtpserver: Server) -> None:
    outbox = smtpserver.outbox
    assert smtpserver.addr == ("127.0.0.1", smtpserver.port)
    with smtplib.SMTP(*smtpserver.addr, timeout=TIMEOUT) as client:
        client.send_message(mail(), to_addrs=["to@example.org", "hidden@example.org"])
        peer = client.sock.getsockname()  # type: ignore[union-attr]  # it is connected
    assert smtpserver.outbox is outbox
    assert len(outbox) == 1
    assert type(outbox[-1]) is Message
    assert outbox[0]["Subject"] == "Foo"
    details: Any = vars(outbox[-1])["details"]
    assert details.rcpttos == ["to@example.org", "hidden@example.org"]
    assert (details.mailfrom, details.peer) == ("from@example.org", peer)
    del outbox[:]
    assert smtpserver.outbox == []


def test_the_server_says_whether_it_runs_and_stops_twice_without_harm() -> None:
    server = Server(host="localhost", port=0)
    assert not server.is_alive()
    server.stop()
    server.start()
    assert server.is_alive()
    assert server.accepting
    assert repr(server) == f"<smtp.Server 127.0.0.1:{server.port}>"
    with pytest.raises(RuntimeError, match="already running"):
        server.start()
    server.stop(timeout=10)
    server.stop()
    assert not server.is_alive()
    assert not server.accepting


# -- in a project ----------------------------------------------------------------------------------

PROJECT = {
    "conftest.py": "from ehlo.testing.compat import smtpd, smtpserver\n",
    "test_mail.py": """
import smtplib

def send(address):
    with smtplib.SMTP(*address) as client:
        client.sendmail("from@example.org", ["to@example.org"], "Subject: Hi\\n\\nHi")

def test_smtpdfix(smtpd):
    send((smtpd.hostname, smtpd.port))
    assert smtpd.messages[0]["X-RcptTo"] == "to@example.org"

def test_localserver(smtpserver):
    send(smtpserver.addr)
    assert smtpserver.outbox[-1].details.rcpttos == ["to@example.org"]

def test_both(smtpd, smtpserver):
    assert (smtpd.messages, smtpserver.outbox) == ([], [])
""",
}


def run(directory: Path, *options: str, alone: bool) -> str:
    """Run pytest in a project, with the plugin of ehlo `alone` or all; return what it printed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV"))}
    if alone:
        command += ["-p", "ehlo.testing.plugin", "-W", "error"]
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    else:
        command += ["-p", "no:schemathesis", "-p", "no:django"]  # they are slow to import
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    return done.stdout + done.stderr


TWO = ("-p", "xdist", "-n", "2")
EACH = [((), False), (TWO, True)]


@pytest.mark.parametrize(("options", "alone"), quick(EACH, most=[*EACH, ((), True), (TWO, False)]))
def test_a_project_switches_by_one_line(
    tmp_path: Path, options: tuple[str, ...], alone: bool
) -> None:
    """Also where the plugins that it had are still installed."""
    for name, text in PROJECT.items():
        (tmp_path / name).write_text(text)
    assert "3 passed" in run(tmp_path, *options, alone=alone)


def test_the_plugin_does_not_register_the_fixtures(tmp_path: Path) -> None:
    (tmp_path / "test_mail.py").write_text(PROJECT["test_mail.py"])
    out = run(tmp_path, alone=True)
    assert "3 errors" in out
    assert "fixture 'smtpd' not found" in out


def test_nothing_is_left_of_many_servers() -> None:
    def rounds(many: int) -> None:
        for _ in range(many):
            with SMTPDFix() as smtpd, Server() as server:
                for address in ((smtpd.hostname, smtpd.port), server.addr):
                    with smtplib.SMTP(*address, timeout=TIMEOUT) as client:
                        client.noop()

    before: Any = threading.active_count()
    rounds(20)
    assert threading.active_count() == before
