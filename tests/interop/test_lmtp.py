"""LMTP over a Unix socket by Postfix and by swaks."""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import ehlo

from .clients import Client, Swaks, Task
from .post import Certificates, Office, Post
from .postfix import postfix

PATIENCE = 60.0
ANNA, BERT, GONE, FULL = (f"{name}@example.org" for name in ("anna", "bert", "gone", "full"))
SENDER = "sender@example.com"
# What Postfix writes into its log: recipient, status and reply
OUTCOMES = (
    (ANNA, "sent", "250 2.0.0 Ok: queued"),
    (BERT, "sent", "250 2.0.0 Ok: queued"),
    (GONE, "bounced", "550 5.1.1 No such mailbox"),
    (FULL, "deferred", "452 4.2.2 Mailbox full"),
)
MAIL = b"From: sender@example.com\r\nTo: all@example.org\r\nSubject: Delivery\r\n\r\n.Hello\r\n"


class Agent(ehlo.Handler):
    """Delivers for each recipient: one is unknown, one is full at first."""

    def __init__(self) -> None:
        self.delivered: list[tuple[str, str, bytes]] = []  # sender, recipient, message
        self.asked: list[list[str]] = []  # the recipients of each message that came
        self._changed = threading.Condition()

    def on_message(self, _session: ehlo.Session, message: ehlo.Message) -> None:
        with self._changed:
            self.asked.append([str(recipient) for recipient in message.recipients])
            for recipient in message.recipients:
                self._deliver(message, recipient)
            self._changed.notify_all()

    def _deliver(self, message: ehlo.Message, recipient: ehlo.Address) -> None:
        if str(recipient) == GONE:
            message.refuse(recipient, ehlo.Reply(550, "5.1.1", "No such mailbox"))
        elif str(recipient) == FULL and len(self.asked) == 1:
            message.refuse(recipient, ehlo.Reply(452, "4.2.2", "Mailbox full"))
        else:
            self.delivered.append((str(message.sender), str(recipient), message.data))

    def wait_for(self, count: int) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: len(self.delivered) >= count, PATIENCE)

    def to(self, recipient: str) -> list[bytes]:
        return [data for _, each, data in self.delivered if each == recipient]


@contextmanager
def on_a_socket(handler: ehlo.Handler) -> Iterator[Path]:
    """Serve LMTP on a Unix socket that Postfix's user can reach."""
    with tempfile.TemporaryDirectory(prefix="ehlo-lmtp-") as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "lmtp"
        server = ehlo.Server(handler, addr=f"unix:{path}", hostname="mx.example.com", lmtp=True)
        with server.in_thread():
            path.chmod(0o666)
            yield path


def test_postfix_delivers_bounces_and_defers_by_recipient(certificates: Certificates) -> None:
    agent = Agent()
    with on_a_socket(agent) as path:
        nowhere = Office(0, "plain", certificates.authority, Post())
        main = f"relayhost =\ndefault_transport = lmtp:unix:{path}\n"
        with postfix(nowhere, main=main) as sender:
            sender.submit(SENDER, [ANNA, GONE, FULL, BERT], MAIL)
            # Three of them, the one that was full later, and the bounce
            assert agent.wait_for(4), sender.log()
            for recipient, status, words in OUTCOMES:
                line = rf"to=<{recipient}>, .* status={status} .*{re.escape(words)}"
                log = sender.wait_for_log(line)
    assert sorted(agent.asked[0]) == sorted([ANNA, GONE, FULL, BERT])
    assert [FULL] in agent.asked[1:], log
    for recipient in (ANNA, BERT, FULL):
        (data,) = agent.to(recipient)  # once
        assert data.startswith(b"Received: from relay.example.com\r\n\tby mx.example.com (smtpd) ")
        assert b" with LMTP\r\n" in data
        assert data.endswith(b"\r\n\r\n.Hello\r\n")
    (bounce,) = [data for sender_, _, data in agent.delivered if sender_ == ""]
    assert agent.to(SENDER) == [bounce]
    assert b"550 5.1.1 No such mailbox" in bounce
    assert f"<{GONE}>".encode() in bounce
    for recipient in (ANNA, BERT, FULL):
        assert f"Final-Recipient: rfc822; {recipient}".encode() not in bounce


@pytest.mark.parametrize("pipeline", [[], ["--pipeline"]])
def test_swaks_speaks_lmtp_over_a_unix_socket(
    clients: dict[str, Client], pipeline: list[str]
) -> None:
    swaks = clients["swaks"]
    assert isinstance(swaks, Swaks)
    agent = Agent()
    with on_a_socket(agent) as path:
        office = Office(0, "plain", Path(), Post(), host=str(path))
        outcome = swaks.send_with(
            Task(office, MAIL, recipients=(ANNA, GONE, BERT)), "--protocol", "LMTP", *pipeline
        )
    assert "220 mx.example.com smtpd LMTP Service ready" in outcome.said
    assert "LHLO client.example.com" in outcome.said
    replies = [line[4:] for line in outcome.said.splitlines() if line.startswith(("<-  ", "<** "))]
    end = replies.index("354 Start mail input; end with <CRLF>.<CRLF>")
    assert replies[end + 1 : end + 4] == [
        *("250 2.0.0 Ok: queued", "550 5.1.1 No such mailbox", "250 2.0.0 Ok: queued"),
    ]
    assert [recipient for _, recipient, _ in agent.delivered] == [ANNA, BERT]
