"""Runs a server in a thread next to synchronous code, such as a test that sends mail."""

import smtplib
from email.message import EmailMessage

import ehlo

inbox: list[bytes] = []


def handler(remote_addr: ehlo.Peer, mail_from: str, rcpt_tos: list[str], data: bytes) -> None:
    inbox.append(data)


def send_welcome(host: str, port: int) -> None:
    """Send a mail: the function that the test is about."""
    mail = EmailMessage()
    mail["Subject"] = "Welcome"
    mail["From"] = "shop@example.com"
    mail["To"] = "alice@example.org"
    with smtplib.SMTP(host, port) as client:
        client.send_message(mail)


with ehlo.Server(handler, addr="127.0.0.1:0").in_thread() as server:
    send_welcome(*server.addresses[0])

assert b"Subject: Welcome" in inbox[0]  # noqa: S101  as in a test
print("one mail sent, one mail received")
