"""Real clients with one interface: what to send, where, and whether the client reports success."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import smtplib
import ssl
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import aiosmtplib

from .peers import CLIENTS, peer, run
from .post import PASSWORD, Office

ALL_MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5")
ITS_CHOICE = "the client's choice"
"""Instead of a mechanism: what the client does if its user names none."""
TOKEN_MECHANISMS = ("XOAUTH2", "OAUTHBEARER")


@dataclass(frozen=True)
class Task:
    """A message for a client to send."""

    office: Office
    mail: bytes
    sender: str = "sender@example.com"
    recipients: tuple[str, ...] = ("anna@example.com",)
    mechanism: str = ""
    user: str = ""
    password: str = PASSWORD

    def as_json(self) -> bytes:
        """Return the task as JSON, for the clients in `clients/`."""
        task = {
            "Host": self.office.host,
            "Port": self.office.port,
            "Security": self.office.security,
            "CA": str(self.office.authority),
            "Sender": self.sender,
            "Recipients": self.recipients,
            "Mechanism": self.mechanism,
            "User": self.user,
            "Password": self.password,
            "Mail": base64.b64encode(self.mail).decode(),
        }
        return json.dumps(task).encode()


class Outcome(NamedTuple):
    """The result as the client reports it."""

    sent: bool
    said: str


class Client(ABC):
    """A client program; `folder` is for its files."""

    name: ClassVar[str]
    mechanisms: ClassVar[tuple[str, ...]] = ALL_MECHANISMS
    speaks_smtputf8: ClassVar[bool] = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def send(self, task: Task) -> Outcome:
        """Send a message and return the client's result."""

    def ran(self, command: list[str | Path], stdin: bytes, **env: str) -> Outcome:
        """Run a program that reports the result by its exit status."""
        done = run(command, stdin=stdin, env=env)
        return Outcome(done.returncode == 0, done.stdout.decode(errors="replace"))


class Smtplib(Client):
    name = "smtplib"
    speaks_smtputf8 = True

    def send(self, task: Task) -> Outcome:
        try:
            self._send(task)
        except smtplib.SMTPException as error:
            return Outcome(False, str(error))
        return Outcome(True, "")

    def _send(self, task: Task) -> None:
        with self._connect(task) as smtp:
            if task.office.security == "starttls":
                smtp.starttls(context=_context(task))
            smtp.ehlo()
            if task.mechanism == ITS_CHOICE:
                smtp.login(task.user, task.password)
            elif task.mechanism:
                # As `login` does, but `login` chooses the mechanism itself
                smtp.user, smtp.password = task.user, task.password
                how = {
                    "PLAIN": smtp.auth_plain,
                    "LOGIN": smtp.auth_login,
                    "CRAM-MD5": smtp.auth_cram_md5,
                }
                smtp.auth(task.mechanism, how[task.mechanism])  # type: ignore[arg-type]  # typeshed wants one overload
            ascii_only = (task.sender + "".join(task.recipients)).isascii()
            options = ["BODY=8BITMIME"] if ascii_only else ["BODY=8BITMIME", "SMTPUTF8"]
            smtp.sendmail(task.sender, task.recipients, task.mail, options)

    def _connect(self, task: Task) -> smtplib.SMTP:
        where = (task.office.host, task.office.port)
        if task.office.security == "tls":
            return smtplib.SMTP_SSL(*where, timeout=60, context=_context(task))
        return smtplib.SMTP(*where, timeout=60)


@asynccontextmanager
async def _ended(client: aiosmtplib.SMTP) -> AsyncIterator[None]:
    """End the connection with the block, QUIT included.

    aiosmtplib closes its transport and waits for nothing. If the loop ends before the server's
    close_notify has come, the socket stays open until the garbage collector complains of it.
    """
    transport = client.transport
    assert isinstance(transport, asyncio.Transport)
    try:
        yield
        await client.quit()
    finally:
        transport.abort()


class Aiosmtplib(Client):
    name = "aiosmtplib"
    speaks_smtputf8 = True

    def send(self, task: Task) -> Outcome:
        try:
            asyncio.run(self._send(task))
        except aiosmtplib.SMTPException as error:
            return Outcome(False, str(error))
        return Outcome(True, "")

    async def _send(self, task: Task) -> None:
        security = task.office.security
        client = aiosmtplib.SMTP(
            hostname=task.office.host,
            port=task.office.port,
            timeout=60,
            use_tls=security == "tls",
            start_tls=security == "starttls",
            tls_context=_context(task) if security != "plain" else None,
        )
        async with client, _ended(client):
            how = {
                "PLAIN": client.auth_plain,
                "LOGIN": client.auth_login,
                "CRAM-MD5": client.auth_crammd5,
            }
            if task.mechanism:
                await client.ehlo()  # `login` would, and it chooses the mechanism itself
                await how[task.mechanism](task.user, task.password)
            ascii_only = (task.sender + "".join(task.recipients)).isascii()
            await client.sendmail(
                task.sender,
                list(task.recipients),
                task.mail,
                mail_options=[] if ascii_only else ["SMTPUTF8"],
            )


class Swaks(Client):
    name = "swaks"

    def send(self, task: Task) -> Outcome:
        return self.send_with(task)

    def send_with(self, task: Task, *options: str) -> Outcome:
        """Send with further options of swaks; a later option wins."""
        mail = self.folder / "mail"
        mail.write_bytes(task.mail.removesuffix(b"\r\n"))  # swaks adds a line end
        security = {"plain": [], "starttls": ["--tls"], "tls": ["--tls-on-connect"]}
        host = task.office.host
        unix = host.startswith("/")
        command: list[str | Path] = [
            *(peer("swaks"), "--socket" if unix else "--server", host),
            *([] if unix else ["--port", str(task.office.port)]),
            *("--helo", "client.example.com", "--from", task.sender or "<>"),
            *("--to", ",".join(task.recipients), "--data", f"@{mail}", "--timeout", "60s"),
            *security[task.office.security],
        ]
        if task.office.security != "plain":
            command += ["--tls-verify", "--tls-ca-path", task.office.authority]
        if task.mechanism:
            command += ["--auth", *([task.mechanism] if task.mechanism != ITS_CHOICE else [])]
            command += ["--auth-user", task.user, "--auth-password", task.password]
        return self.ran([*command, *options], b"", SWAKS_HOME="/nonexistent")


class Curl(Client):
    name = "curl"
    speaks_smtputf8 = True

    def send(self, task: Task) -> Outcome:
        scheme = "smtps" if task.office.security == "tls" else "smtp"
        url = f"{scheme}://{task.office.host}:{task.office.port}/client.example.com"
        command: list[str | Path] = [
            *(peer("curl"), "--disable", "--silent", "--show-error", "--verbose"),
            *("--max-time", "60", "--url", url, "--cacert", task.office.authority),
            *("--mail-from", task.sender, "--upload-file", "-"),
        ]
        for recipient in task.recipients:
            command += ["--mail-rcpt", recipient]
        if task.office.security == "starttls":
            command.append("--ssl-reqd")
        if task.mechanism in TOKEN_MECHANISMS:
            command += ["--login-options", f"AUTH={task.mechanism}", "--user", f"{task.user}:"]
            command += ["--oauth2-bearer", task.password]
        elif task.mechanism:
            if task.mechanism != ITS_CHOICE:
                command += ["--login-options", f"AUTH={task.mechanism}"]
            command += ["--user", f"{task.user}:{task.password}"]
        return self.ran(command, task.mail, LC_ALL="C.UTF-8")


class Msmtp(Client):
    name = "msmtp"
    mechanisms = (*ALL_MECHANISMS, "SCRAM-SHA-1", "SCRAM-SHA-256")

    def send(self, task: Task) -> Outcome:
        security = task.office.security
        command: list[str | Path] = [
            *(peer("msmtp"), f"--host={task.office.host}", f"--port={task.office.port}"),
            *("--timeout=60", "--domain=client.example.com", f"--from={task.sender or '<>'}"),
            f"--tls={'off' if security == 'plain' else 'on'}",
            f"--tls-starttls={'on' if security == 'starttls' else 'off'}",
        ]
        if security != "plain":
            command.append(f"--tls-trust-file={task.office.authority}")
        if task.mechanism == "EXTERNAL":
            command.append(f"--tls-cert-file={task.office.client_certificate}")
            command.append(f"--tls-key-file={task.office.client_certificate}")
        if task.mechanism:
            mechanism = "on" if task.mechanism == ITS_CHOICE else task.mechanism.lower()
            command += [f"--auth={mechanism}", f"--user={task.user}"]
            command.append("--passwordeval=printenv MSMTP_PASSWORD")
        command += ["--", *task.recipients]
        return self.ran(command, task.mail, MSMTP_PASSWORD=task.password)


class Ruby(Client):
    name = "ruby"

    def send(self, task: Task) -> Outcome:
        return self.ran([peer("ruby"), CLIENTS / "send.rb"], task.as_json())


class Nodemailer(Client):
    name = "nodemailer"
    speaks_smtputf8 = True

    def send(self, task: Task) -> Outcome:
        modules = peer("nodemailer")
        return self.ran([peer("node"), CLIENTS / "send.js"], task.as_json(), NODE_PATH=modules)


class Go(Client):
    name = "go"
    mechanisms = ("PLAIN", "CRAM-MD5")
    speaks_smtputf8 = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._program: Path | None = None

    def send(self, task: Task) -> Outcome:
        return self.ran([self._compiled()], task.as_json())

    def _compiled(self) -> Path:
        """Build the program once for all tests, without the network."""
        if self._program is None:
            program = self.folder / "send"
            env = {"GO111MODULE": "off", "GOFLAGS": "", "GOPROXY": "off"}
            if "HOME" not in os.environ and "GOCACHE" not in os.environ:
                env["GOCACHE"] = str(self.folder / "cache")
            command: list[str | Path] = [peer("go"), "build", "-o", program, CLIENTS / "send.go"]
            done = run(command, env=env, timeout=600)
            assert done.returncode == 0, done.stdout.decode()
            self._program = program
        return self._program


CLASSES: tuple[type[Client], ...] = (
    *(Smtplib, Aiosmtplib, Swaks, Curl, Msmtp, Ruby, Nodemailer, Go),
)


def _context(task: Task) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(task.office.authority))
