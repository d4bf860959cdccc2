"""`ehlo serve module:attr`: kinds of targets, and where the options come from."""

import json
import re
import signal
import smtplib
import socket
import ssl
from pathlib import Path

import pytest

from ehlo import Peer
from ehlo.passwords.file import PasswordFile
from support.certificates import PASSPHRASE, Certificates, Files
from support.client import Client
from support.manager import Manager
from support.program import DEADLINE, Program, Start

LOOPBACK = ("--addr", "127.0.0.1:0")


def send(program: Program) -> None:
    with smtplib.SMTP(*program.listening()) as client:
        client.sendmail("alice@example.com", ["bob@example.org"], b"Subject: hello\r\n\r\n")


# -- what ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "printed"),
    [
        ("app:function", "function alice@example.com ['bob@example.org'] True\n"),
        ("app:coroutine", "coroutine alice@example.com ['bob@example.org']\n"),
        ("app:place.function", "function alice@example.com ['bob@example.org'] True\n"),
        ("app:Handler", "class alice@example.com bob@example.org\n"),
        ("app:instance", "instance alice@example.com bob@example.org\n"),
    ],
)
def test_handlers_of_all_kinds_are_served(
    start: Start, here: Path, target: str, printed: str
) -> None:
    program = start("-m", "ehlo", "serve", target, *LOOPBACK, cwd=here)
    send(program)
    assert program.stop() == 0
    assert program.out.text == printed


def test_a_server_object_is_served_with_its_own_options(start: Start, here: Path) -> None:
    program = start("-m", "ehlo", "serve", "app:server", cwd=here)
    with smtplib.SMTP(*program.listening()) as client:
        assert b"MyApp" in client.docmd("QUIT")[1]
    program.stop()


def test_only_the_given_options_override_those_of_a_server_object(start: Start, here: Path) -> None:
    program = start(
        *("-m", "ehlo", "serve", "app:server", "--hostname", "mx.example"),
        cwd=here,
        env={"EHLO_MAX_SIZE": "2000"},
    )
    with smtplib.SMTP(*program.listening()) as client:
        client.ehlo()
        assert client.ehlo_resp is not None
        assert client.ehlo_resp.startswith(b"mx.example ")
        assert client.esmtp_features["size"] == "2000"
        assert b"MyApp" in client.docmd("QUIT")[1]


def test_callbacks_override_those_of_a_server_object(start: Start, here: Path) -> None:
    program = start("-m", "ehlo", "serve", "app:server", "--rcpt-handler", "app:only_bob", cwd=here)
    with smtplib.SMTP(*program.listening()) as client:
        client.ehlo()
        client.mail("alice@example.com")
        assert client.rcpt("carol@example.org")[0] == 550
        assert client.rcpt("bob@example.org")[0] == 250


def test_callbacks_for_a_function_are_named_as_module_and_attribute(
    start: Start, here: Path
) -> None:
    program = start(
        *("-m", "ehlo", "serve", "app:function", *LOOPBACK),
        *(
            "--auth-handler",
            "app:login",
            "--auth-mechs",
            "PLAIN=on",
            "--auth-mechs",
            "CRAM-MD5=off",
        ),
        *("--auth-required", "--log-read", "app:log_line"),
        cwd=here,
    )
    with smtplib.SMTP(*program.listening()) as client:
        client.ehlo()
        assert client.esmtp_features["auth"].split() == ["PLAIN"]
        assert client.mail("alice@example.com")[0] == 530
        client.login("alice", "secret")
        assert client.mail("alice@example.com")[0] == 250
    assert program.stop() == 0
    # smtplib writes `from:` from Python 3.13 on
    assert "line mail mail from:<alice@example.com>" in program.out.text.lower()


# -- where its options come from -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "env"),
    [
        (["--proxy-networks", "::1", "--proxy-networks", "127.0.0.0/8"], {}),
        ([], {"EHLO_PROXY_NETWORKS": "::1 127.0.0.0/8"}),
    ],
)
def test_several_proxy_networks_can_be_given(
    start: Start, args: list[str], env: dict[str, str]
) -> None:
    program = start("-m", "ehlo", *LOOPBACK, *args, env=env)
    with socket.create_connection(program.listening(), 15.0) as sock:
        sock.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 1 25\r\n")
        assert sock.recv(4) == b"220 "


@pytest.mark.parametrize(
    ("args", "env"), [(["--proxy-networks", "none"], {}), ([], {"EHLO_PROXY_NETWORKS": "none"})]
)
def test_none_is_an_empty_list_of_networks(
    start: Start, here: Path, args: list[str], env: dict[str, str]
) -> None:
    (here / "behind.py").write_text(
        "import ehlo\n"
        "server = ehlo.Server(print, addr='127.0.0.1:0', proxy_networks=['127.0.0.0/8'])\n"
    )
    program = start("-m", "ehlo", "serve", "behind:server", *args, cwd=here, env=env)
    with socket.create_connection(program.listening(), 15.0) as sock:
        assert sock.recv(4) == b"220 "


@pytest.mark.parametrize("name", ["exempt", "proxy", "xclient", "xforward"])
def test_none_is_an_empty_list_for_each_network_option(start: Start, name: str) -> None:
    program = start("-m", "ehlo", *LOOPBACK, f"--{name}-networks", "none")
    with socket.create_connection(program.listening(), 15.0) as sock:
        assert sock.recv(4) == b"220 "


def test_localhost_is_limited_if_no_network_is_exempt(start: Start) -> None:
    limit = ("--max-connections-per-address", "1", "--exempt-networks", "none")
    address = start("-m", "ehlo", *LOOPBACK, *limit).listening()
    with socket.create_connection(address, 15.0) as first:
        assert first.recv(4) == b"220 "
        with socket.create_connection(address, 15.0) as second:
            assert second.recv(4) == b"421 "


def test_each_option_can_be_set_in_the_environment(start: Start, here: Path) -> None:
    program = start(
        *("-m", "ehlo", "serve", "app:function"),
        cwd=here,
        env={
            "EHLO_ADDR": "127.0.0.1:0 [::1]:0",
            "EHLO_AUTH_HANDLER": "app:login",
            "EHLO_AUTH_MECHS": "PLAIN=on CRAM-MD5=off",
            "EHLO_AUTH_REQUIRED": "1",
            "EHLO_HOSTNAME": "mx.example",
        },
    )
    line = program.err.until("listening on ")
    assert "127.0.0.1:" in line
    assert "[::1]:" in line
    port = int(re.findall(r"\[::1\]:(\d+)", line)[0])
    with smtplib.SMTP("::1", port) as client:
        client.ehlo()
        assert client.esmtp_features["auth"].split() == ["PLAIN"]
        assert client.mail("alice@example.com")[0] == 530


def test_extensions_are_enabled_with_their_values(start: Start, here: Path) -> None:
    named = ("--extensions", "DSN=on", "--extensions", "DELIVERBY=240", "--extensions", "SIZE=off")
    environment = "DSN=on DELIVERBY=240 SIZE=off"
    for flags, env in ((named, {}), ((), {"EHLO_EXTENSIONS": environment})):
        program = start("-m", "ehlo", "serve", "app:function", *LOOPBACK, *flags, cwd=here, env=env)
        with smtplib.SMTP(*program.listening()) as client:
            client.ehlo()
            assert client.has_extn("dsn")
            assert client.esmtp_features["deliverby"] == "240"
            assert not client.has_extn("size")


def test_the_bare_command_reads_the_same_environment(start: Start) -> None:
    program = start(
        "-m", "ehlo", env={"EHLO_ADDR": "127.0.0.1:0", "EHLO_MAX_SIZE": "77", "EHLO_JSON": "1"}
    )
    with smtplib.SMTP(*program.listening()) as client:
        client.ehlo()
        assert client.esmtp_features["size"] == "77"
        client.sendmail("alice@example.com", ["bob@example.org"], b"Subject: x\r\n\r\n")
    assert program.stop() == 0
    assert program.out.text.startswith('{"id": ')


def test_the_command_line_overrides_the_environment(start: Start) -> None:
    program = start("-m", "ehlo", *LOOPBACK, "--max-size", "88", env={"EHLO_MAX_SIZE": "77"})
    with smtplib.SMTP(*program.listening()) as client:
        client.ehlo()
        assert client.esmtp_features["size"] == "88"


# -- TLS -----------------------------------------------------------------------------------------


def test_a_certificate_offers_starttls(
    start: Start, here: Path, certificates: Certificates
) -> None:
    program = start(
        *("-m", "ehlo", "serve", "app:function", *LOOPBACK, "--tls-required"),
        *("--tls-cert", certificates.cert_file, "--tls-key", certificates.encrypted_key_file),
        cwd=here,
        env={"EHLO_TLS_PASSPHRASE": PASSPHRASE},
    )
    with smtplib.SMTP(*program.listening()) as client:
        client.ehlo()
        assert client.mail("alice@example.com")[0] == 530
        client.starttls(context=certificates.client)
        client.sendmail("alice@example.com", ["bob@example.org"], b"Subject: x\r\n\r\n")
    assert program.stop() == 0
    assert program.out.text.startswith("function alice@example.com")


def test_the_key_may_be_in_the_certificate_file(
    start: Start, here: Path, certificates: Certificates
) -> None:
    both = here / "both.pem"
    both.write_bytes(
        Path(certificates.cert_file).read_bytes() + Path(certificates.key_file).read_bytes()
    )
    program = start("-m", "ehlo", *LOOPBACK, "--tls-listener", "--tls-cert", both)
    with smtplib.SMTP_SSL(*program.listening(), context=certificates.client) as client:
        assert client.noop()[0] == 250


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sighup_reloads_certificates_and_log_and_notifies_the_service_manager(
    start: Start, here: Path, certificates: Certificates, manager: Manager, workers: str
) -> None:
    def shown(name: str) -> bytes | None:
        with (
            socket.create_connection(address, DEADLINE) as sock,
            certificates.client.wrap_socket(sock, server_hostname=name) as tls,
        ):
            return tls.getpeercert(binary_form=True)

    first, second = (
        Files(certificates.authority, here, name) for name in ("localhost", "b.example")
    )
    log = here / "log"
    program = start(
        *("-m", "ehlo", "serve", "app:function", *LOOPBACK, "--tls-listener", "--log-file", log),
        *("--tls-cert", first.cert, "--tls-key", first.key),
        *("--tls-cert", second.cert, "--tls-key", second.key),
        *("--tls-client-ca", certificates.authority_file, "--workers", workers),
        cwd=here,
        env={"NOTIFY_SOCKET": manager.address},
    )
    (address,) = manager.where()
    assert shown("b.example") == second.der
    second.issue("b.example")
    log.rename(here / "log.1")
    program.process.send_signal(signal.SIGHUP)
    manager.hears_of("RELOADING=1")
    manager.hears_of("READY=1")
    new_log = log.read_text()
    assert new_log.count("received SIGHUP: reloading") == 1
    assert new_log.count(f'reloaded what=certificates files="{first.cert} {second.cert}"') == int(
        workers
    )
    assert shown("b.example") == second.der
    assert shown("localhost") == first.der
    second.key.unlink()
    program.process.send_signal(signal.SIGHUP)
    manager.hears_of("READY=1")
    assert log.read_text().count("in_use=previous") == int(workers)
    assert shown("b.example") == second.der
    assert program.stop() == 0
    assert program.err.text == ""
    assert "listening on" in (here / "log.1").read_text()
    assert "Ctrl+C" not in (here / "log.1").read_text()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_client_certificates_can_be_required(
    start: Start, here: Path, certificates: Certificates, workers: str
) -> None:
    files = Files(certificates.authority, here)
    program = start(
        *("-m", "ehlo", "serve", "app:function", *LOOPBACK, "--tls-listener"),
        *("--tls-cert", files.cert, "--tls-key", files.key, "--workers", workers),
        *("--tls-client-ca", certificates.authority_file, "--tls-client-certs", "required"),
        cwd=here,
    )
    address = Peer(*program.listening())
    with Client(address, tls=certificates.client_named("alice")) as client:
        client.hello()
        assert client.mail().startswith("250 ")
    refused = pytest.raises((ssl.SSLError, ConnectionError, EOFError))
    with Client(address, tls=certificates.client) as client, refused:
        client.reply()


def test_the_server_survives_a_full_log_disk_and_a_moved_log_file(
    start: Start, here: Path, manager: Manager
) -> None:
    """Lines for `/dev/full` cannot be written, neither immediately nor when the file is closed."""
    log = here / "log"
    log.symlink_to("/dev/full")
    flags = ("--log-file", log, "--loop", "asyncio")
    command = ("-m", "ehlo", "serve", "app:function", *LOOPBACK, *flags)
    program = start(*command, cwd=here, env={"NOTIFY_SOCKET": manager.address})
    ((host, port),) = manager.where()
    with smtplib.SMTP(host, port, timeout=DEADLINE) as client:
        client.noop()
        log.unlink()
        client.sendmail("a@example.com", "b@example.com", b"Subject: x\r\n\r\n")
    assert program.stop() == 0
    assert "message accepted" in log.read_text()


def test_lines_for_a_full_disk_are_counted(start: Start, here: Path, manager: Manager) -> None:
    log = here / "log"
    log.symlink_to("/dev/full")
    program = start(
        *("-m", "ehlo", "serve", "app:Quoting", *LOOPBACK, "--log-file", log),
        cwd=here,
        env={"NOTIFY_SOCKET": manager.address},
    )
    ((host, port),) = manager.where()
    with Client(Peer(host, port)) as client:
        client.hello()
        for _ in range(100):
            assert client.mail().startswith("451")
    log.unlink()
    assert program.stop() == 0
    assert program.err.text == "ehlo: cannot write to the log: No space left on device\n"
    (counted,) = re.findall(
        r"level=warning .*up to (\d+) lines could not be logged", log.read_text()
    )
    assert int(counted) > 200


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_passphrase_reaches_no_program_that_a_handler_starts(
    start: Start, here: Path, certificates: Certificates, workers: str
) -> None:
    (here / "starts.py").write_text(
        "import os, subprocess, app\n"
        "def look(): print('PASSPHRASE' in subprocess.getoutput('env'), flush=True)\n"
        "class Handler(app.Handler):\n"
        "    def on_startup(self, server): look()\n"
        "look()\n"
    )
    program = start(
        *("-m", "ehlo", "serve", "starts:Handler", *LOOPBACK, "--workers", workers),
        *("--tls-cert", certificates.cert_file, "--tls-key", certificates.encrypted_key_file),
        cwd=here,
        env={"EHLO_TLS_PASSPHRASE": PASSPHRASE},
    )
    with smtplib.SMTP(*program.listening()) as client:
        client.starttls(context=certificates.client)
    assert program.stop() == 0
    assert set(program.out.text.split()) == {"False"}


def test_a_log_file_can_be_json(start: Start, here: Path, manager: Manager) -> None:
    log = here / "log"
    PasswordFile(here / "users").set("alice", "wonder")
    program = start(
        *("-m", "ehlo", "serve", "app:function", *LOOPBACK),
        *("--auth-file", here / "users", "--log-file", log, "--log-format", "json"),
        cwd=here,
        env={"NOTIFY_SOCKET": manager.address},
    )
    manager.where()
    program.process.send_signal(signal.SIGHUP)
    manager.hears_of("RELOADING=1")
    manager.hears_of("READY=1")
    (here / "users").write_text("nonsense")
    program.process.send_signal(signal.SIGHUP)
    manager.hears_of("READY=1")
    assert program.stop() == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    done, failed = (line for line in lines if line.get("what") == "passwords")
    assert (done["event"], done["file"], done["level"]) == ("reloaded", str(here / "users"), "INFO")
    assert (failed["event"], failed["in_use"]) == ("reload failed", "previous")
    assert (failed["level"], "line 1" in failed["reason"]) == ("ERROR", True)


def test_a_log_file_that_cannot_be_reopened_stays_in_use(
    start: Start, here: Path, manager: Manager
) -> None:
    (here / "logs").mkdir()
    program = start(
        *("-m", "ehlo", *LOOPBACK, "--log-file", here / "logs" / "log"),
        env={"NOTIFY_SOCKET": manager.address},
    )
    manager.where()
    (here / "logs").rename(here / "old")
    program.process.send_signal(signal.SIGHUP)
    manager.hears_of("RELOADING=1")
    manager.hears_of("READY=1")
    (here / "logs").mkdir()
    assert program.stop() == 0
    before, after = ((here / name / "log").read_text() for name in ("old", "logs"))
    assert before.count('event="reload failed" what=log') == 1
    assert "received SIGHUP: reloading" in before
    assert "shutting down" in after


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_soft_limit_of_file_descriptors_is_raised(
    start: Start, here: Path, workers: str
) -> None:
    module = """
import resource, app
class Limits(app.Handler):
    def on_startup(self, server):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        print("soft", soft, "hard", hard, flush=True)
"""
    (here / "limits.py").write_text(module)
    code = (
        "import resource, sys; from ehlo.cli import main; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512)); sys.exit(main())"
    )
    command = ("serve", "limits:Limits", *LOOPBACK, "--workers", workers)
    program = start("-c", code, *command, cwd=here)
    assert program.out.until("soft") == "soft 512 hard 512\n"
    program.listening()
    assert program.stop() == 0


# -- how it runs and ends ------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_starts_a_graceful_shutdown(
    start: Start, here: Path, number: signal.Signals
) -> None:
    program = start("-m", "ehlo", "serve", "app:function", *LOOPBACK, cwd=here)
    client = smtplib.SMTP(*program.listening())
    client.ehlo()
    client.mail("alice@example.com")
    client.rcpt("bob@example.org")
    program.process.send_signal(number)
    program.err.until("shutting down")
    assert client.data(b"Subject: under way\r\n\r\n")[0] == 250
    client.close()
    assert program.wait() == 0
    assert program.out.text.startswith("function alice@example.com")


@pytest.mark.parametrize("loop", ["auto", "asyncio", "uvloop"])
def test_the_server_runs_on_each_event_loop(start: Start, here: Path, loop: str) -> None:
    program = start("-m", "ehlo", "serve", "app:coroutine", *LOOPBACK, "--loop", loop, cwd=here)
    send(program)
    assert program.stop() == 0
    assert program.out.text.startswith("coroutine ")


def test_the_server_listens_on_a_unix_socket(start: Start, here: Path) -> None:
    path = here / "ehlo.sock"
    program = start("-m", "ehlo", "--addr", f"unix:{path}")
    program.err.until(f"listening on unix:{path}")
    assert path.is_socket()
    assert program.stop() == 0
    assert not path.exists()


def test_debug_logs_each_line_of_a_session(start: Start) -> None:
    program = start("-m", "ehlo", *LOOPBACK, "--debug")
    send(program)
    assert program.stop() == 0
    # smtplib writes `from:` from Python 3.13 on
    assert " <- mail from:<alice@example.com>" in program.err.text.lower()
    assert " -> 250 2.1.0 Ok" in program.err.text


def test_no_control_character_of_a_mail_is_logged(start: Start, here: Path) -> None:
    program = start("-m", "ehlo", "serve", "app:Quoting", *LOOPBACK, cwd=here)
    mail = b"Subject: \x1b[31m\xc2\x9b\r\n\r\n"
    with smtplib.SMTP(*program.listening()) as client, pytest.raises(smtplib.SMTPDataError):
        client.sendmail("alice@example.com", ["bob@example.org"], mail)
    assert program.stop() == 0
    assert "Traceback" in program.err.text
    assert r"ValueError: Subject: \x1b[31m\x9b" in program.err.text
    assert "\x1b" not in program.err.text
    assert "\x9b" not in program.err.text


@pytest.mark.parametrize("to", ["file", "stderr"])
def test_no_line_is_forged_by_a_mail(start: Start, here: Path, manager: Manager, to: str) -> None:
    forged = "2026-11-28 00:00:00 INFO    received SIGTERM: shutting down"
    (here / "logs.py").write_text(
        "import logging, app\n"
        "class Handler(app.Quoting):\n"
        "    async def on_message(self, session, message):\n"
        "        logging.getLogger('own').warning(message.body.decode())\n"
        "        await super().on_message(session, message)\n"
    )
    flags = ("--log-file", here / "log") if to == "file" else ()
    program = start(
        *("-m", "ehlo", "serve", "logs:Handler", *LOOPBACK, *flags),
        cwd=here,
        env={"NOTIFY_SOCKET": manager.address},
    )
    ((host, port),) = manager.where()
    with Client(Peer(host, port)) as client:
        client.hello()
        assert client.mail(body=f"{forged}\r\n{forged}\r\n".encode()).startswith("451")
    assert program.stop() == 0
    text = (here / "log").read_text() if to == "file" else program.err.text
    # the module's own line, and the exception as a field and in its traceback
    assert text.count(forged) == 6
    assert f"\n{forged}" not in text
    assert all(line.startswith(("time=20", "  ")) for line in text.splitlines())


def test_the_log_level_applies(start: Start, here: Path) -> None:
    program = start("-c", _BRIEF, cwd=here, env={"EHLO_LOG_LEVEL": "error"})
    assert program.wait() == 0
    assert program.err.text == ""


# A server that its own on_startup stops
_BRIEF = """
import os, signal, sys, ehlo
from ehlo.cli import main
import app
class Brief(app.Handler):
    def on_startup(self, server):
        os.kill(os.getpid(), signal.SIGTERM)
app.Brief = Brief
sys.exit(main(["serve", "app:Brief", "--addr", "127.0.0.1:0"]))
"""


def test_a_module_that_sets_up_logging_keeps_it(start: Start, here: Path) -> None:
    program = start("-m", "ehlo", "serve", "chatty:function", *LOOPBACK, cwd=here)
    assert program.err.until("listening on ").startswith("own format: listening on ")
    assert program.stop() == 0


# -- what is seen --------------------------------------------------------------------------------


def test_events_are_lines_on_standard_error(start: Start, here: Path) -> None:
    program = start("-m", "ehlo", "serve", "app:function", *LOOPBACK, cwd=here)
    send(program)
    program.stop()
    for event in ("connection opened", "message accepted", "connection closed"):
        assert len(re.findall(f' level=info .*event="{event}" session=', program.err.text)) == 1


def test_the_log_can_be_json(start: Start, here: Path) -> None:
    program = start(
        *("-m", "ehlo", "serve", "app:Quoting", *LOOPBACK, "--log-format", "json"), cwd=here
    )
    with smtplib.SMTP(*program.listening()) as client, pytest.raises(smtplib.SMTPDataError):
        client.sendmail("alice@example.com", ["bob@example.org"], b"\x7f \xc2\x9b\r\n")
    program.stop()
    records = [json.loads(line) for line in program.err.text.splitlines()]
    assert program.err.text.replace("\n", "").isprintable()
    by_event = {record.get("event"): record for record in records}
    assert by_event["rejected"]["code"] == 451
    assert by_event["rejected"]["logger"] == "ehlo.refusal"
    assert by_event["connection closed"]["session"] == by_event["rejected"]["session"]
    (failed,) = [record for record in records if record["level"] == "ERROR"]
    assert "ValueError" in failed["exception"]


def test_event_lines_do_not_appear_among_printed_messages(start: Start) -> None:
    program = start("-m", "ehlo", *LOOPBACK)
    send(program)
    program.stop()
    assert "connection" not in program.err.text
    assert "message accepted" not in program.err.text
    loud = start("-m", "ehlo", *LOOPBACK, "--log-level", "info")
    send(loud)
    loud.stop()
    assert 'event="message accepted"' in loud.err.text
