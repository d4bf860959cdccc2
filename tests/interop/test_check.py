"""What `ehlo check` says of other servers; docs/conformance.md has it in words."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from support.ports import reserved_port
from support.program import completed

from .peers import TIMEOUT, run
from .post import ADDRESS, Certificates, Office
from .postfix import HOST, postfix

Serve = Callable[..., Office]
Peer = Callable[[str], str]

LF_IN_COMMANDS = "A command ends with CRLF, and with nothing else"
SMUGGLING = {
    f"{end} does not end a message"
    for end in ("LF . LF", "LF . CRLF", "CRLF . LF", "CRCRLF . CRCRLF", "CRLF . CRCRLF")
}
CHUNKING = {"CHUNKING", "CHUNKING SIZE"}

AIOSMTPD = """
import asyncio, ssl, sys
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP

context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(*sys.argv[1:])

def protocol():  # with a Controller's options
    return SMTP(Sink(), tls_context=context, enable_SMTPUTF8=True)

async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"""


def checked(address: str) -> tuple[int, list[dict[str, Any]]]:
    """Return the exit code of `ehlo check`, and its cases."""
    done = completed("check", address, "--json", "--timeout", "60", timeout=10 * TIMEOUT)
    assert done.stdout, done.stderr.decode()
    return done.returncode, json.loads(done.stdout)["cases"]


def failed(cases: Sequence[dict[str, Any]], level: str) -> set[str]:
    return {
        case["title"] for case in cases if case["outcome"] == "failed" and case["level"] == level
    }


def not_offered(cases: Sequence[dict[str, Any]]) -> set[str]:
    assert not [case for case in cases if case["outcome"] == "not tried"]
    return {case["reason"] for case in cases if case["outcome"] == "not offered"}


@contextlib.contextmanager
def aiosmtpd(certificates: Certificates) -> Iterator[str]:
    files = [str(certificates.certificate), str(certificates.key)]
    command = [sys.executable, "-c", AIOSMTPD, *files]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()


def test_aiosmtpd(certificates: Certificates) -> None:
    with aiosmtpd(certificates) as address:
        code, cases = checked(address)
    assert code == 1
    assert failed(cases, "must") == {LF_IN_COMMANDS}
    assert failed(cases, "should") == {
        "A path without its closing bracket is rejected",
        "An address that is not ASCII is rejected without SMTPUTF8",
        "An empty recipient is rejected",
        "HELP is supported",
        "STARTTLS over TLS is rejected",
    }
    assert not_offered(cases) == {"CHUNKING", "PIPELINING", "ENHANCEDSTATUSCODES"}


@contextlib.contextmanager
def smtp_sink(program: str) -> Iterator[str]:
    port = reserved_port(ADDRESS)
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    with subprocess.Popen([program, *user, f"{ADDRESS}:{port}", "100"]) as process:
        try:
            until = time.monotonic() + TIMEOUT
            while not _accepts(port):  # it does not report when it listens
                assert process.poll() is None
                assert time.monotonic() < until
            yield f"{ADDRESS}:{port}"
        finally:
            process.kill()


def _accepts(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError):
        socket.create_connection((ADDRESS, port), TIMEOUT).close()
        return True
    return False


def test_smtp_sink(peer: Peer) -> None:
    with smtp_sink(peer("smtp-sink")) as address:
        code, cases = checked(address)
    assert code == 1
    assert failed(cases, "must") == {
        "MAIL with an unknown parameter is rejected",
        "RCPT with an unknown parameter is rejected",
        "Replies have enhanced status codes",
        "The reply to EHLO has each keyword once",
    }
    assert failed(cases, "should") == {
        "A path without its closing bracket is rejected",
        "A text behind the path that is no parameter is rejected",
        "An empty recipient is rejected",
        "BODY with another value is rejected",
        "DATA with an argument is rejected",
        "EHLO without a name is rejected",
        "HELO without a name is rejected",
        "HELP is supported",
        "MAIL with an unknown parameter is rejected with 555",
        "MAIL without FROM is rejected",
        "QUIT with an argument is rejected",
        "RCPT without TO is rejected",
        "RSET with an argument is rejected",
    }
    assert not_offered(cases) == {*CHUNKING, "SIZE", "SMTPUTF8", "STARTTLS"}


def main_cf(certificates: Certificates, bare_newlines: str | None) -> str:
    more = "" if bare_newlines is None else f"smtpd_forbid_bare_newline = {bare_newlines}\n"
    return (
        "smtpd_tls_security_level = may\n"
        f"smtpd_tls_cert_file = {certificates.certificate}\n"
        f"smtpd_tls_key_file = {certificates.key}\n"
        "relayhost =\n"
        "default_transport = discard:\n"
        "message_size_limit = 10240000\n"
        "smtpd_forbid_bare_newline_exclusions =\n"
        f"{more}"
    )


# What each value of smtpd_forbid_bare_newline leaves of these failures
MUSTS = {
    "no": {LF_IN_COMMANDS, *SMUGGLING},
    "normalize": {LF_IN_COMMANDS},
    "reject": set[str](),
}


@pytest.mark.parametrize("setting", [None, *MUSTS], ids=str)
def test_postfix(
    setting: str | None, serve: Serve, certificates: Certificates, peer: Peer, tmp_path: Path
) -> None:
    postfix_program = peer("postconf")
    said = run([postfix_program, "-dh", "smtpd_forbid_bare_newline"]).stdout.decode()
    default = said.splitlines()[-1]
    with postfix(serve(), main=main_cf(certificates, setting)) as running:
        code, cases = checked(f"{HOST}:{running.port}")
    expected = MUSTS[setting or default]
    assert failed(cases, "must") == expected
    assert code == (1 if expected else 0)
    assert failed(cases, "should") == {
        "An address that is not ASCII is rejected without SMTPUTF8",
        "HELP is supported",
        "QUIT with an argument is rejected",
    }
    assert not_offered(cases) == set()
