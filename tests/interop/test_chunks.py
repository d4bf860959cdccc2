"""BDAT by Perl's Net::SMTP, which uses it for BINARYMIME."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from .peers import CLIENTS, peer, run
from .post import Office

Serve = Callable[..., Office]

BINARY = b"Subject: bytes\r\nContent-Transfer-Encoding: binary\r\n\r\n" + bytes(range(256))


def send(office: Office, mail: bytes, size: int) -> tuple[bool, str]:
    env = {"HOST": office.host, "PORT": str(office.port), "SIZE": str(size)}
    done = run([peer("perl"), CLIENTS / "bdat.pl"], stdin=mail, env=env)
    return done.returncode == 0, done.stdout.decode()


@pytest.mark.parametrize(
    ("begin", "size"), [(b"\0\xff", 1), (BINARY, 7), (BINARY, 1000), (BINARY, 10_000_000)]
)
def test_binary_data_arrives_in_chunks_of_any_size(serve: Serve, begin: bytes, size: int) -> None:
    mail = begin + b"\r\n.\r\nQUIT\r\n\r" + random.Random(3030).randbytes(size)  # noqa: S311  the same in each run
    office = serve("plain", bare_newlines="keep", extensions={"BINARYMIME": True})
    sent, said = send(office, mail, size)
    assert sent, said
    (message,) = office.received
    assert message.body == mail
    assert message.via == "BDAT"
    assert message.params["BODY"] == "BINARYMIME"
    assert office.transcript.count("C: BDAT ") == -(-len(mail) // size)


def test_a_chunk_over_the_limit_is_rejected_and_the_session_continues(serve: Serve) -> None:
    office = serve("plain", max_size=1000, bare_newlines="keep", extensions={"BINARYMIME": True})
    sent, said = send(office, BINARY * 10, 700)
    assert not sent
    assert "Message size exceeds fixed limit" in said
    assert office.received == []
    assert office.transcript.splitlines()[-2:] == [
        "C: QUIT",
        "S: 221 2.0.0 mx.example.com smtpd ESMTP Service closing transmission channel",
    ]
