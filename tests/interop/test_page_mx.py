"""The Postfix of docs/mx.md: in front of ehlo, as its main.cf says."""

from __future__ import annotations

import smtplib
import tempfile
import threading
from pathlib import Path

from support.pages import PAGES, Reader, a_mail, blocks, shown
from support.pages import reader as reader

from .peers import peer, run
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
        # smtpd looks three times, a second after the other, and says 450 if no answer is there yet
        main += "address_verify_poll_delay = 1s\naddress_verify_poll_count = 60\n"
        with delivery.server.in_thread(), postfix(nowhere, main=main) as front:
            with smtplib.SMTP(HOST, front.port) as client:
                refused = client.send_message(a_mail("bob@example.com, eve@example.com"))
            assert {name: code for name, (code, _) in refused.items()} == {"eve@example.com": 550}
            assert mailbox.used.wait(60), front.log()
    (mail,) = mailbox
    assert b"At noon?" in mail


def test_postfix_behind_has_a_port_for_this_machine(tmp_path: Path) -> None:
    """Postfix reads the lines of master.cf as the page means them."""
    page = next(page for page in PAGES if page.stem == "mx")
    (master,) = (each.code for each in blocks(page) if "inet n" in each.code)
    (tmp_path / "master.cf").write_text(master)
    (tmp_path / "main.cf").write_text("compatibility_level = 3.6\n")
    said = run([peer("postconf"), "-c", tmp_path, "-P"]).stdout.decode()
    assert said.splitlines() == [
        "127.0.0.1:10025/inet/mynetworks = 127.0.0.0/8",
        "127.0.0.1:10025/inet/smtpd_authorized_xforward_hosts = 127.0.0.0/8",
        "127.0.0.1:10025/inet/smtpd_recipient_restrictions = permit_mynetworks,reject",
    ]
