"""The Postfix of docs/mx.md: in front of ehlo, as its main.cf says."""

from __future__ import annotations

import smtplib
import tempfile
import threading
from pathlib import Path

from support.pages import Reader, a_mail, shown
from support.pages import reader as reader

from .post import Certificates, Office, Post
from .postfix import HOST, postfix


class Mailbox(list[bytes]):
    """Tells when a mail has come."""

    def __init__(self) -> None:
        self.used = threading.Event()

    def append(self, mail: bytes) -> None:
        super().append(mail)
        self.used.set()


def test_postfix_in_front_asks_and_delivers(reader: Reader, certificates: Certificates) -> None:
    delivery = reader.load("mx", "delivery.py")
    mailbox = delivery.MAILBOXES["bob@example.com"] = Mailbox()
    with tempfile.TemporaryDirectory(prefix="ehlo-mx-") as folder:
        Path(folder).chmod(0o755)  # for Postfix's user
        reader.sockets = Path(folder)
        delivery.server.configure(unix_mode="666")
        nowhere = Office(0, "plain", certificates.authority, Post())
        main = shown("mx", "delivery.py", "ini").replace("/run/ehlo", folder)
        main += "address_verify_poll_delay = 1s\n"
        with delivery.server.in_thread(), postfix(nowhere, main=main) as front:
            with smtplib.SMTP(HOST, front.port) as client:
                refused = client.send_message(a_mail("bob@example.com, eve@example.com"))
            assert {name: code for name, (code, _) in refused.items()} == {"eve@example.com": 550}
            assert mailbox.used.wait(60), front.log()
    (mail,) = mailbox
    assert b"At noon?" in mail
