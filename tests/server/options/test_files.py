"""Certificates that are renewed while the server runs, and several of them by SNI."""

from __future__ import annotations

import contextlib
import logging
import pickle
import ssl
import threading
from collections.abc import Callable, Iterator
from functools import partial
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

import pytest

import ehlo
from ehlo import Server, Session
from ehlo.passwords.file import PasswordFile
from ehlo.server.options import files as reloading
from ehlo.server.options.config import Options
from ehlo.server.tls import certificates as renewal
from ehlo.server.tls.binding import dns_names, end_point_binding
from ehlo.server.tls.certificates import Certificate, FileContext, Holder, file_context
from ehlo.server.workers.recipe import recipe
from support.certificates import PASSPHRASE, Certificates, Files
from support.client import Client
from support.serving import DEADLINE, Box, Collector, Running, Serve

STAYS = "in_use=previous"
TAKEN = "reloaded what="


@pytest.fixture
def files(certificates: Certificates, tmp_path: Path) -> Files:
    return Files(certificates.authority, tmp_path)


def shown(running: Running, certificates: Certificates) -> bytes:
    """The certificate that a new client is shown, by implicit TLS."""
    with running.client(tls=certificates.client) as client:
        client.hello()
        return certificate_of(client)


def certificate_of(client: Client) -> bytes:
    assert isinstance(client.sock, ssl.SSLSocket)
    found = client.sock.getpeercert(binary_form=True)
    assert found is not None
    return found


class Log(logging.Handler):
    """What the server's log says, as it comes; a test waits for it with a deadline."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []
        self._more = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._more:
            self._lines.append(record.getMessage())
            self._more.notify_all()

    def until(self, text: str) -> None:
        """Return when a line has `text` that was not waited for before."""
        with self._more:
            assert self._more.wait_for(lambda: any(text in line for line in self._lines), DEADLINE)
            self._lines.clear()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    caplog.set_level(logging.INFO, "ehlo")
    log = Log()
    logging.getLogger("ehlo.server").addHandler(log)
    yield log
    logging.getLogger("ehlo.server").removeHandler(log)


def reload(running: Server | Running) -> bool:
    server = running.server if isinstance(running, Running) else running
    return server.reload().result(DEADLINE)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at all the time, and need not rest."""
    monkeypatch.setattr(reloading, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(renewal, "SETTLED", 0)


def context_of(*all_files: Files) -> FileContext:
    return file_context(tuple(each.certificate for each in all_files))


# -- reload ----------------------------------------------------------------------------------------


def test_new_handshakes_see_the_new_certificate_and_connections_go_on(
    serve: Serve,
    files: Files,
    certificates: Certificates,
    loop_name: str,
) -> None:
    old = files.der
    box = Box()
    running = serve(box, tls_config=context_of(files), loop=loop_name)
    with running.client() as under_tls, running.ready() as before_tls:
        under_tls.hello()
        under_tls.say("STARTTLS")
        under_tls.wrap(certificates.client)
        new = files.issue("localhost")
        assert reload(running)
        assert certificate_of(under_tls) == old
        under_tls.say("EHLO c")
        assert under_tls.mail() == "250 2.0.0 Ok: queued"
        assert before_tls.say("STARTTLS").startswith("220")
        before_tls.wrap(certificates.client)
        assert certificate_of(before_tls) == new != old


def spoil(files: Files, way: str, other_key: str) -> None:
    match way:
        case "broken":
            files.cert.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n")
        case "missing":
            files.key.unlink()
        case "of another key":
            files.key.write_bytes(Path(other_key).read_bytes())
        case "half a file":
            files.key.write_bytes(files.key.read_bytes()[:100])


WAYS = ["broken", "missing", "of another key", "half a file"]


@pytest.mark.parametrize("way", WAYS)
def test_files_that_cannot_be_loaded_leave_the_old_ones_and_are_logged(
    files: Files, certificates: Certificates, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(Box(), addr="127.0.0.1:0", tls_listener=True, loop="asyncio")
    server.configure(tls_config=context_of(files))
    old = files.der
    with server.in_thread():
        running = Running(server)
        spoil(files, way, certificates.other_key_file)
        assert not reload(server)
        assert shown(running, certificates) == old
        new = files.issue("localhost")
        assert reload(server)
        assert shown(running, certificates) == new
    (line,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    start = f'reload failed what=certificates reason="{files.cert} with {files.key}: '
    assert line.getMessage().startswith(start)
    assert line.getMessage().endswith(f'" {STAYS}')


def test_a_line_of_a_reload_has_the_fields_of_one_in_json(
    serve: Serve, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ehlo.server")
    running = serve(Box(), tls_config=context_of(files))
    caplog.clear()
    assert reload(running)
    files.key.unlink()
    assert not reload(running)
    done, failed = (vars(record) for record in caplog.records)
    assert (done["event"], done["what"], done["files"]) == (
        *("reloaded", "certificates"),
        str(files.cert),
    )
    assert (failed["event"], failed["what"], failed["in_use"], failed["levelname"]) == (
        *("reload failed", "certificates", "previous", "ERROR"),
    )
    assert "No such file or directory" in failed["reason"]
    caplog.clear()  # the fixture would take it for the server's trouble


def test_a_reload_of_a_server_that_does_not_run_does_nothing() -> None:
    assert not reload(Server(Box()))


def test_a_reload_of_a_server_that_has_ended_does_nothing(serve: Serve, files: Files) -> None:
    server = Server(Box(), addr="127.0.0.1:0", tls_config=context_of(files))
    with server.in_thread():
        run = server.running
        assert run is not None
    assert not run.reload().result(DEADLINE)


def test_a_context_of_your_own_stays(
    serve: Serve, files: Files, certificates: Certificates
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    old = files.der
    holder = Holder(context)
    files.issue("localhost")
    holder.renew()
    holder.look()
    assert holder.current is context
    assert not holder.is_watched
    running = serve(Box(), tls_config=context, tls_listener=True)
    assert reload(running)
    assert shown(running, certificates) == old


def test_a_function_makes_the_context_at_start_and_at_each_reload(
    files: Files, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []
    trouble = False

    def make() -> ssl.SSLContext:
        calls.append("call")
        if trouble:
            raise RuntimeError("the vault is closed")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.cert, files.key)
        return context

    old = files.der
    server = Server(Box(), addr="127.0.0.1:0", tls_config=make, tls_listener=True)
    with server.in_thread():
        assert calls == ["call"]
        running = Running(server)
        new = files.issue("localhost")
        assert shown(running, certificates) == old
        assert reload(server)
        assert shown(running, certificates) == new
        trouble = True
        assert not reload(server)
        assert shown(running, certificates) == new
    assert "what=tls_config reason=\"RuntimeError('the vault is closed')\"" in caplog.text
    assert "Traceback" in caplog.text
    assert calls == ["call"] * 3


def test_a_function_is_called_every_minute_and_another_certificate_used(
    files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ehlo.server")
    holder = Holder(lambda: context_of(files))
    before = holder.current
    assert holder.is_watched
    files.issue("localhost")
    assert holder.look()
    assert holder.current is before  # it was called just now
    monkeypatch.setattr(renewal, "MAKE_EVERY", 0.0)
    assert holder.look()
    after = holder.current
    assert after is not before
    assert holder.look()
    assert holder.current is after
    files.key.unlink()
    assert not holder.look()
    assert not holder.look()
    assert holder.current is after
    assert caplog.text.count(TAKEN) == caplog.text.count(STAYS) == 1


def test_a_function_with_an_unusable_context_leaves_the_old_one(
    files: Files, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    contexts = [
        context_of(files),
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),  # without a certificate
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    ]
    server = Server(Box(), addr="127.0.0.1:0", tls_config=lambda: contexts[0], tls_listener=True)
    with server.in_thread():
        for _ in contexts[1:]:
            del contexts[0]
            assert not reload(server)
        assert shown(Running(server), certificates) == files.der
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert ["no client can use" in line for line in lines] == [True, True]
    with pytest.raises(ValueError, match="no client can use"), server.in_thread():
        pytest.fail("it has started")


def test_a_function_may_make_a_context_that_requires_client_certificates(
    serve: Serve, files: Files, certificates: Certificates
) -> None:
    def make(newest: ssl.TLSVersion) -> ssl.SSLContext:
        context = context_of(files)
        context.load_verify_locations(certificates.authority_file)
        context.verify_mode = ssl.CERT_REQUIRED
        context.maximum_version = newest
        return context

    for newest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        assert reload(serve(Box(), tls_config=partial(make, newest), tls_required=True))


def test_a_function_that_returns_no_context_is_a_type_error_at_start() -> None:
    make: Any = lambda: "context"  # noqa: E731
    server = Server(Box(), addr="127.0.0.1:0", tls_config=make)
    with pytest.raises(TypeError, match=r"must return an ssl\.SSLContext"), server.in_thread():
        pytest.fail("it has started")


def test_a_reload_reads_the_password_file(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ehlo.server")
    users = tmp_path / "users"
    PasswordFile(users).set("alice", "wonder")
    running = serve(Box(), auth_file=str(users))
    assert reload(running)
    assert f"reloaded what=passwords file={users}" in caplog.text
    users.write_text("nonsense\n")
    assert not reload(running)
    reason = f"{users}: line 1: not of the form user:hash"
    assert f'reload failed what=passwords reason="{reason}" {STAYS}' in caplog.text
    run = running.server.running
    assert run is not None
    passwords = run.files.password_file(str(users))
    assert passwords.check("alice", "wonder")
    caplog.clear()  # the fixture would take it for the server's trouble


class Broken(WatchedFileHandler):
    """One that raises, as that of the standard library does in a directory that has gone."""

    def reopenIfNeeded(self) -> None:  # noqa: N802  as it is called there
        raise OSError("no directory")


def test_a_reload_reopens_the_log_files(serve: Serve, tmp_path: Path) -> None:
    handler = WatchedFileHandler(tmp_path / "log")
    handler.setLevel(logging.CRITICAL)  # no line of ours is the cause
    logging.getLogger().addHandler(handler)
    try:
        running = serve(Box())
        (tmp_path / "log").rename(tmp_path / "log.1")
        assert reload(running)
        assert (tmp_path / "log").exists()
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def test_a_log_that_raises_does_not_prevent_the_reload_of_certificates(
    files: Files, certificates: Certificates, tmp_path: Path
) -> None:
    server = Server(Box(), addr="127.0.0.1:0", tls_listener=True, tls_config=context_of(files))
    handler = Broken(tmp_path / "log")
    with server.in_thread():
        new = files.issue("localhost")
        logging.getLogger().addHandler(handler)
        try:
            assert not reload(server)
        finally:
            logging.getLogger().removeHandler(handler)
            handler.close()
        assert shown(Running(server), certificates) == new
        assert reload(server)


# -- files that change by themselves ---------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_files_that_change_are_reloaded_without_a_signal(
    serve: Serve, files: Files, certificates: Certificates, log: Log
) -> None:
    running = serve(Box(), tls_config=context_of(files), tls_listener=True)
    other = Files(certificates.authority, files.cert.parent, "other")
    new = other.issue("localhost")
    other.key.replace(files.key)
    other.cert.replace(files.cert)
    log.until(TAKEN)
    assert shown(running, certificates) == new


@pytest.mark.usefixtures("quick")
def test_links_that_lead_elsewhere_are_a_change(
    serve: Serve, certificates: Certificates, tmp_path: Path, log: Log
) -> None:
    for number in ("1", "2"):
        (tmp_path / number).mkdir()
    first = Files(certificates.authority, tmp_path / "1")
    second = Files(certificates.authority, tmp_path / "2")
    live = tmp_path / "live"
    live.symlink_to(tmp_path / "1")
    pair = Certificate(str(live / first.cert.name), str(live / first.key.name))
    running = serve(Box(), tls_config=file_context((pair,)), tls_listener=True)
    assert shown(running, certificates) == first.der
    (tmp_path / "new").symlink_to(tmp_path / "2")
    (tmp_path / "new").replace(live)
    log.until(TAKEN)
    assert shown(running, certificates) == second.der


@pytest.mark.usefixtures("quick")
def test_half_of_a_new_pair_is_not_used_and_looked_at_again(
    files: Files, certificates: Certificates, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(Box(), addr="127.0.0.1:0", tls_listener=True, tls_config=context_of(files))
    old, other = files.der, Files(certificates.authority, files.cert.parent, "other")
    new = other.issue("localhost")
    with server.in_thread():
        other.cert.replace(files.cert)
        log.until(STAYS)
        assert shown(Running(server), certificates) == old
        other.key.replace(files.key)
        log.until(TAKEN)
        assert shown(Running(server), certificates) == new
    assert caplog.text.count("MISMATCH") == 1  # although there were many looks


def test_files_are_not_reloaded_while_they_change(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = Holder(context_of(files))
    before = holder.current
    files.issue("localhost")
    monkeypatch.setattr(renewal, "SETTLED", 3_600_000_000_000)
    holder.look()
    assert holder.current is before
    monkeypatch.setattr(renewal, "SETTLED", 0)
    holder.look()
    after = holder.current
    assert after is not before
    holder.look()
    assert holder.current is after


def test_a_start_loads_files_that_have_changed_since_configure_tls(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "SETTLED", 0)
    context = context_of(files)
    new = files.issue("localhost")
    current = Holder(context).current
    assert isinstance(current, FileContext)
    assert current.end_point == end_point_binding(new)


def test_files_that_change_while_they_are_read_are_not_used(
    files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    holder = Holder(context_of(files))
    before = holder.current
    build: Callable[..., FileContext] = file_context

    def build_meanwhile(of: tuple[Certificate, ...]) -> FileContext:
        made = build(of)
        files.issue("localhost")
        return made

    monkeypatch.setattr(renewal, "file_context", build_meanwhile)
    holder.renew()
    assert holder.current is before
    assert "changed while they were read" in caplog.text


def test_settings_of_the_user_are_applied_to_the_next_context(files: Files) -> None:
    context = context_of(files)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    context.set_ciphers("ECDHE-RSA-AES256-GCM-SHA384")
    holder = Holder(context)
    holder.renew()
    assert holder.current is not context
    assert holder.current.minimum_version is ssl.TLSVersion.TLSv1_3
    assert holder.current.options == context.options
    assert holder.current.get_ciphers() == context.get_ciphers()


# -- several certificates --------------------------------------------------------------------------


@pytest.fixture
def several(certificates: Certificates, tmp_path: Path) -> dict[str, Files]:
    names = ("localhost", "a.example", "*.b.example", "c.b.example")
    return {name: Files(certificates.authority, tmp_path, name) for name in names}


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("localhost", "localhost"),
        ("a.example", "a.example"),
        ("A.EXAMPLE", "a.example"),
        ("x.b.example", "*.b.example"),
        ("c.b.example", "c.b.example"),
        ("x.y.b.example", "localhost"),
        ("b.example", "localhost"),
        ("unknown.example", "localhost"),
        (None, "localhost"),
    ],
)
def test_the_certificate_is_chosen_by_the_name_that_the_client_asks_for(
    serve: Serve,
    several: dict[str, Files],
    certificates: Certificates,
    asked: str | None,
    answer: str,
) -> None:
    collector = Collector()
    running = serve(collector, tls_config=context_of(*several.values()), tls_listener=True)
    lax = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    lax.check_hostname = False
    certificates.authority.configure_trust(lax)
    with running.client() as client:
        client.sock = lax.wrap_socket(client.sock, server_hostname=asked)
        client.hello()
        client.mail()
        assert certificate_of(client) == several[answer].der
    session: Session = collector.sessions[0]
    assert session.tls is not None
    assert session.tls.sni == asked


@pytest.mark.parametrize("renewed", [False, True])
@pytest.mark.parametrize("asked", ["localhost", "a.example"])
def test_ciphers_of_the_user_apply_to_every_name(
    serve: Serve,
    several: dict[str, Files],
    certificates: Certificates,
    asked: str,
    renewed: bool,
) -> None:
    server = Server(Box(), tls_listener=True)
    for name in ("localhost", "a.example"):
        files = several[name].certificate
        server.configure_tls(files.cert_file, files.key_file)
        if name == "localhost":  # the next call must not forget it
            assert isinstance(server.options.tls_config, FileContext)
            server.options.tls_config.set_ciphers("ECDHE+AES256")
            server.options.tls_config.minimum_version = ssl.TLSVersion.TLSv1_2
    running = serve(server.options.handler, tls_config=server.options.tls_config, tls_listener=True)
    if renewed:
        assert running.server.reload().result(DEADLINE)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    certificates.authority.configure_trust(client)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("ECDHE+AES128")
    with running.client() as weak, pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure"):
        client.wrap_socket(weak.sock, server_hostname=asked)


@pytest.mark.parametrize(
    ("own", "asks", "mode"),
    [
        (None, "optional", ssl.CERT_OPTIONAL),
        (None, "required", ssl.CERT_REQUIRED),
        (ssl.CERT_REQUIRED, "optional", ssl.CERT_REQUIRED),
    ],
)
def test_another_certificate_does_not_weaken_client_certificates(
    several: dict[str, Files],
    certificates: Certificates,
    own: ssl.VerifyMode | None,
    asks: Any,
    mode: ssl.VerifyMode,
) -> None:
    server = Server(Box())
    first, second = several["localhost"].certificate, several["a.example"].certificate
    server.configure_tls(first.cert_file, first.key_file)
    assert isinstance(server.options.tls_config, FileContext)
    if own is not None:
        server.options.tls_config.load_verify_locations(certificates.authority_file)
        server.options.tls_config.verify_mode = own
    authority = certificates.authority_file
    server.configure_tls(second.cert_file, second.key_file, None, authority, asks)
    assert server.options.tls_config.verify_mode is mode


def test_the_channel_binding_is_that_of_the_chosen_certificate(several: dict[str, Files]) -> None:
    from ehlo.server.tls.channel import Channel

    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    several["localhost"].authority.configure_trust(client)
    context = context_of(*several.values())
    for asked, name in (("a.example", "a.example"), ("x.b.example", "*.b.example")):
        channel = Channel(context)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = client.wrap_bio(incoming, outgoing, server_hostname=asked)
        while not channel.established:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
            channel.receive(outgoing.read())
            channel.handshake()
            incoming.write(channel.outgoing())
        expected = end_point_binding(several[name].der)
        assert channel.bindings()["tls-server-end-point"] == expected


def test_configure_tls_adds_certificates_and_replaces_the_same(
    several: dict[str, Files], certificates: Certificates
) -> None:
    server = Server(Box())
    for each in several.values():
        server.configure_tls(str(each.cert), str(each.key))
    first = several["localhost"]
    server.configure_tls(
        *(str(first.cert), str(first.key)),
        client_ca=certificates.authority_file,
        client_certs="required",
    )
    assert isinstance(server.options.tls_config, FileContext)
    assert len(server.options.tls_config.certificates) == 4
    assert server.options.tls_config.names == ("localhost",)
    assert server.options.tls_config.verify_mode is ssl.CERT_REQUIRED


def test_tls_cert_is_a_certificate_or_several_and_is_reloaded(
    serve: Serve, several: dict[str, Files], certificates: Certificates
) -> None:
    certs, keys = zip(*((str(each.cert), str(each.key)) for each in several.values()), strict=True)
    running = serve(Box(), tls_cert=certs, tls_key=list(keys), tls_listener=True)
    with running.client(tls=certificates.client) as client:
        assert certificate_of(client) == several["localhost"].der
    new = several["localhost"].issue("localhost")
    assert running.server.reload().result(DEADLINE)
    with running.client(tls=certificates.client) as client:
        assert certificate_of(client) == new
    assert running.server.options.tls_cert == certs


def test_the_key_may_be_in_the_file_of_the_certificate(
    serve: Serve, files: Files, certificates: Certificates, tmp_path: Path
) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(files.cert.read_bytes() + files.key.read_bytes())
    running = serve(Box(), tls_cert=str(both), tls_listener=True)
    with running.client(tls=certificates.client) as client:
        assert certificate_of(client) == files.der


def test_configure_tls_adds_to_the_certificates_of_tls_cert(several: dict[str, Files]) -> None:
    first, second, *_ = several.values()
    server = Server(Box(), tls_cert=str(first.cert), tls_key=str(first.key))
    server.configure_tls(str(second.cert), str(second.key))
    made = server.options.tls_config
    assert isinstance(made, FileContext)
    assert [each.cert_file for each in made.certificates] == [str(first.cert), str(second.cert)]
    assert (server.options.tls_cert, server.options.tls_key) == ((), ())


def test_tls_cert_is_read_once_for_all_listeners(files: Files, serve: Serve) -> None:
    listeners = [ehlo.Listener("127.0.0.1:0"), ehlo.Listener("127.0.0.1:0", max_size=7)]
    names: dict[str, Any] = {"tls_cert": str(files.cert), "tls_key": str(files.key)}
    running = serve(Box(), addr=Options.addr, listeners=listeners, **names)
    run = running.server.running
    assert run is not None
    one, other = (each.rules.tls for each in run.services)
    assert one is other is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tls_key": "server.key"}, "tls_key needs tls_cert; set both"),
        ({"tls_cert": ["a.pem"], "tls_key": ["a.key", "b.key"]}, "tls_key: give one for each"),
        ({"tls_cert": "a.pem", "tls_config": file_context}, "tls_cert cannot be combined with tls"),
    ],
)
def test_files_that_do_not_fit_are_a_value_error(options: dict[str, Any], message: str) -> None:
    server = Server(Box(), addr="127.0.0.1:0", **options)
    with pytest.raises(ValueError, match=message), server.in_thread():
        pytest.fail("it has started")


def test_a_certificate_that_is_not_there_is_an_os_error_with_its_name(tmp_path: Path) -> None:
    server = Server(Box(), addr="127.0.0.1:0", tls_cert=str(tmp_path / "server.pem"))
    with pytest.raises(FileNotFoundError, match=r"server\.pem"), server.in_thread():
        pytest.fail("it has started")


def test_a_certificate_without_its_key_is_an_error_that_says_what_to_set(
    certificates: Certificates,
) -> None:
    chain = certificates.authority_file
    server = Server(Box(), addr="127.0.0.1:0", tls_cert=chain)
    with pytest.raises(ssl.SSLError) as caught, server.in_thread():
        pytest.fail("it has started")
    advice = "set tls_key if the key is in another file"
    assert caught.value.__notes__ == [f"{chain} with {chain}; {advice}"]


def test_a_further_certificate_without_a_name_is_a_value_error(
    files: Files, certificates: Certificates, tmp_path: Path
) -> None:
    server = Server(Box())
    server.configure_tls(str(files.cert), str(files.key))
    before = server.options.tls_config
    nameless = Files(certificates.authority, tmp_path, "127.0.0.1")
    with pytest.raises(ValueError, match="no DNS name"):
        server.configure_tls(str(nameless.cert), str(nameless.key))
    assert server.options.tls_config is before


def test_client_certificates_without_a_client_ca_are_a_value_error(files: Files) -> None:
    with pytest.raises(ValueError, match="pass the client_ca"):
        Server(Box()).configure_tls(str(files.cert), str(files.key), client_certs="required")
    wrong: Any = "perhaps"
    with pytest.raises(ValueError, match="'perhaps'"):
        Server(Box()).configure_tls(str(files.cert), str(files.key), client_certs=wrong)


def test_a_required_client_certificate_is_required_whatever_the_name(
    serve: Serve, several: dict[str, Files], certificates: Certificates
) -> None:
    pairs = [each.certificate for each in several.values()]
    pairs[1] = Certificate(
        *(pairs[1].cert_file, pairs[1].key_file, None, certificates.authority_file, "required")
    )
    running = serve(Collector(), tls_config=file_context(tuple(pairs)), tls_listener=True)
    with running.client(tls=certificates.client_named("alice")) as client:
        client.hello()
        assert client.mail() == "250 2.0.0 Ok: queued"
    with pytest.raises((ssl.SSLError, EOFError, ConnectionError)):  # noqa: SIM117
        with running.client(tls=certificates.client) as client:
            client.reply()


def test_workers_get_the_certificates_and_the_settings_of_the_context(
    several: dict[str, Files],
) -> None:
    server = Server("app:function", workers=2)
    for each in several.values():
        server.configure_tls(str(each.cert), str(each.key))
    assert isinstance(server.options.tls_config, FileContext)
    server.options.tls_config.minimum_version = ssl.TLSVersion.TLSv1_3
    made = pickle.loads(pickle.dumps(recipe(server.options, Server)))().options.tls_config  # noqa: S301  made by this test
    assert made.certificates == server.options.tls_config.certificates
    assert made.minimum_version is ssl.TLSVersion.TLSv1_3
    named = Server("app:function", workers=2, tls_cert="server.pem", tls_key="server.key")
    made = pickle.loads(pickle.dumps(recipe(named.options, Server)))().options  # noqa: S301  as above
    assert (made.tls_cert, made.tls_key) == ("server.pem", "server.key")
    server.configure(tls_config=make_nothing)
    made = pickle.loads(pickle.dumps(recipe(server.options, Server)))().options.tls_config  # noqa: S301  made by this test
    assert made is make_nothing
    server.configure(tls_config=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    with pytest.raises(
        ValueError, match="tls_config cannot be passed to workers; call configure_tls"
    ):
        recipe(server.options, Server)


def make_nothing() -> ssl.SSLContext:
    raise NotImplementedError


def test_the_passphrase_is_not_in_the_repr() -> None:
    assert PASSPHRASE not in repr(Certificate("crt", "key", PASSPHRASE))


def test_the_names_of_a_certificate_are_its_dns_names(certificates: Certificates) -> None:
    issued = certificates.authority.issue_cert(
        *("Mx.example", "*.b.example", "192.0.2.1", "a@example.com"), common_name="common.example"
    )
    der = ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())
    assert set(dns_names(der)) == {"mx.example", "*.b.example"}
    for end in range(len(der)):
        assert dns_names(der[:end]) == ()
    for at in range(0, len(der), 3):
        dns_names(der[:at] + b"\xff" + der[at + 1 :])


def test_two_reloads_at_once_are_one_after_the_other(
    serve: Serve, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = serve(Box(), tls_config=context_of(files))
    build: Callable[..., FileContext] = file_context
    under_way: list[int] = []
    most = 0

    def build_and_count(of: tuple[Certificate, ...]) -> FileContext:
        nonlocal most
        under_way.append(1)
        most = max(most, len(under_way))
        made = build(of)
        under_way.pop()
        return made

    monkeypatch.setattr(renewal, "file_context", build_and_count)
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(reload(running))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert results == [True] * 8
    assert most == 1
