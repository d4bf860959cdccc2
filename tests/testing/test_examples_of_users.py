"""Ten tests as they would stand in a project that sends mail: short, and in its words."""

from __future__ import annotations

import re
import secrets
import smtplib
import ssl
from collections.abc import Callable
from email.message import EmailMessage

import aiosmtplib
import pytest

from ehlo.testing import Inbox

# -- the project ----------------------------------------------------------------------------------


def mail(to: str, subject: str, text: str, bcc: str = "") -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "app@example.com", to, subject
    if bcc:
        message["Bcc"] = bcc
    message.set_content(text)
    return message


class Mailer:
    """Sends the mails of a project, with the server that its settings name."""

    def __init__(self, host: str = "smtp.example.com", port: int = 25) -> None:
        self.host, self.port = host, port
        self.codes: dict[str, str] = {}

    def send(self, *messages: EmailMessage, timeout: float = 30) -> None:
        with smtplib.SMTP(self.host, self.port, timeout=timeout) as client:
            for message in messages:
                client.send_message(message)

    def send_secure(
        self, message: EmailMessage, context: ssl.SSLContext, login: tuple[str, str] | None = None
    ) -> None:
        with smtplib.SMTP(self.host, self.port) as client:
            client.starttls(context=context)
            if login is not None:
                client.login(*login)
            client.send_message(message)

    def reset_password(self, to: str) -> None:
        token = secrets.token_urlsafe(16)
        text = f"Hello,\n\nchoose a new password: https://example.com/reset/{token}\n\nBye\n"
        self.send(mail(to, "Your new password", text))

    def send_code(self, to: str) -> None:
        self.codes[to] = f"{secrets.randbelow(1_000_000):06}"
        self.send(mail(to, "Your code", f"Your login code is {self.codes[to]}.\n"))

    def deliver_with_retries(self, message: EmailMessage, tries: int = 3) -> int:
        for attempt in range(1, tries + 1):
            try:
                self.send(message)
            except smtplib.SMTPRecipientsRefused:
                continue
            return attempt
        raise TimeoutError("not delivered")

    def send_all(self, *recipients: str) -> dict[str, int]:
        failed: dict[str, int] = {}
        with smtplib.SMTP(self.host, self.port) as client:
            for to in recipients:
                try:
                    client.send_message(mail(to, "News", "All is well.\n"))
                except smtplib.SMTPRecipientsRefused as refused:
                    failed |= {each: code for each, (code, _) in refused.recipients.items()}
        return failed

    def state_after_sending(self, message: EmailMessage) -> str:
        try:
            self.send(message)
        except smtplib.SMTPServerDisconnected:
            return "unknown"  # it may have been delivered
        return "sent"


@pytest.fixture
def mailer(ehlo_memory: Inbox) -> Mailer:
    """Return the mailer with the settings of production: the inbox gets its mail all the same."""
    return Mailer()


@pytest.fixture
def mailer_by_port(ehlo_smtp: Inbox) -> Mailer:
    return Mailer(ehlo_smtp.host, ehlo_smtp.port)


# -- its tests -------------------------------------------------------------------------------------


def test_reset(ehlo_smtp: Inbox, mailer_by_port: Mailer) -> None:
    mailer_by_port.reset_password("a@x.test")
    link = ehlo_smtp.wait_for(to="a@x.test").link("/reset/")
    assert re.fullmatch(r"https://example\.com/reset/[\w-]{22}", link)


def test_one_time_code(ehlo_memory: Inbox, mailer: Mailer) -> None:
    mailer.send_code("a@x.test")
    assert ehlo_memory.wait_for(subject="code").code(6) == mailer.codes["a@x.test"]


def test_retry(ehlo_memory: Inbox, mailer: Mailer) -> None:
    ehlo_memory.fail("rcpt", "450 4.2.1 Greylisted", times=2)
    assert mailer.deliver_with_retries(mail("a@x.test", "Hi", "Hello\n")) == 3
    assert len(ehlo_memory) == 1


def test_bounce(ehlo_smtp: Inbox, mailer_by_port: Mailer) -> None:
    ehlo_smtp.fail("rcpt", "550 5.1.1 No such user", to="gone@x.test")
    assert mailer_by_port.send_all("a@x.test", "gone@x.test", "b@x.test") == {"gone@x.test": 550}
    assert [each.rcpt_tos for each in ehlo_smtp] == [["a@x.test"], ["b@x.test"]]


def test_dropped(ehlo_memory: Inbox, mailer: Mailer) -> None:
    ehlo_memory.drop("end")
    assert mailer.state_after_sending(mail("a@x.test", "Hi", "Hello\n")) == "unknown"


def test_slow(ehlo_smtp: Inbox, mailer_by_port: Mailer) -> None:
    ehlo_smtp.delay("data", 3)
    with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out"):
        mailer_by_port.send(mail("a@x.test", "Hi", "Hello\n"), timeout=1)


def test_tls(ehlo_smtp: Inbox, mailer_by_port: Mailer) -> None:
    ehlo_smtp.offer(starttls=True)
    mailer_by_port.send_secure(mail("a@x.test", "Hi", "Hello\n"), ehlo_smtp.client_context)
    tls = ehlo_smtp[0].tls
    assert tls is not None
    assert tls.version == "TLSv1.3"


def test_login(ehlo_smtp: Inbox, mailer_by_port: Mailer) -> None:
    ehlo_smtp.offer(starttls=True, auth={"u": "p"}, require_auth=True)
    message = mail("a@x.test", "Hi", "Hello\n")
    mailer_by_port.send_secure(message, ehlo_smtp.client_context, ("u", "p"))
    assert ehlo_smtp[0].user == "u"
    with pytest.raises(smtplib.SMTPAuthenticationError):
        mailer_by_port.send_secure(message, ehlo_smtp.client_context, ("u", "wrong"))


def test_bcc(ehlo_memory: Inbox, mailer: Mailer) -> None:
    mailer.send(mail("a@x.test", "News", "All is well.\n", bcc="hidden@x.test"))
    received = ehlo_memory[0]
    assert "hidden@x.test" in received.rcpt_tos
    assert received.message["bcc"] is None


@pytest.mark.anyio
async def test_async(ehlo_smtp: Inbox) -> None:
    message = mail("a@x.test", "hi", "Hello\n")
    await aiosmtplib.send(message, hostname=ehlo_smtp.host, port=ehlo_smtp.port)
    assert (await ehlo_smtp.wait_for_async(subject="hi")).text == "Hello\n"


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


def test_several_inboxes(ehlo_inbox_factory: Callable[..., Inbox]) -> None:
    ours, theirs = ehlo_inbox_factory(), ehlo_inbox_factory()
    Mailer(ours.host, ours.port).send(mail("a@x.test", "Hi", "Hello\n"))
    assert (len(ours), len(theirs)) == (1, 0)
