"""Clients of Mailpit's API against a real server: mailpit-api in Node, and requests of Cypress."""

from __future__ import annotations

import contextlib
import json
import smtplib
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from ehlo import Handler, Message, Server, Session
from ehlo.inbox import Catcher, WebOptions
from ehlo.inbox.accounts import check_of_users

from . import peers

USER, PASSWORD = "user", "pass:word"


class Shown(NamedTuple):
    """A server that catches mail, and shows it."""

    web: str
    smtp: int
    released: list[tuple[str, list[str]]]


class Released(Handler):
    """Notes what is released to it."""

    def __init__(self) -> None:
        self.got: list[tuple[str, list[str]]] = []

    async def on_message(self, session: Session, message: Message) -> None:
        self.got.append((str(message.sender), list(map(str, message.recipients))))


@pytest.fixture
def shown() -> Iterator[Shown]:
    target = Released()
    with contextlib.ExitStack() as stack:
        relay = stack.enter_context(Server(target, addr="127.0.0.1:0").in_thread())
        options = WebOptions(
            check=check_of_users(f"{USER}:{PASSWORD}"),
            relay=f"smtp://127.0.0.1:{relay.addresses[0].port}",
        )
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        catcher = Catcher(web=[listening], options=options)
        server = stack.enter_context(Server(catcher, addr="127.0.0.1:0").in_thread())
        yield Shown(f"http://127.0.0.1:{port}", server.addresses[0].port, target.got)


def test_every_call_of_mailpit_api(shown: Shown) -> None:
    node = peers.peer("node")
    modules = peers.peer("mailpit-api")
    script = peers.CLIENTS / "mailpit.mjs"
    command = [node, str(script), shown.web, USER, PASSWORD]
    done = peers.run(command, env={"NODE_MODULES": modules})
    assert done.returncode == 0, done.stdout.decode()
    assert len(json.loads(done.stdout)) == 27
    assert shown.released == [("sender@x.test", ["a@z.test"])]


def test_the_requests_of_cypress_mailpit(shown: Shown) -> None:
    """Requests of its commands; where it polls, once."""
    client = httpx.Client(base_url=shown.web, auth=(USER, PASSWORD), timeout=60)

    def get(path: str, **query: Any) -> Any:
        answer = client.get(path, params=query)
        assert answer.status_code == 200
        return answer.json() if "json" in answer.headers["content-type"] else answer.text

    with client, smtplib.SMTP("127.0.0.1", shown.smtp, timeout=60) as smtp:
        file = {"Content": "aGVsbG8=", "FileName": "a.txt"}  # sic: the field is Filename
        letter = {
            "Attachments": [file],
            "Bcc": ["bcc@example.com"],
            "Cc": [{"Email": "cc@example.com", "Name": "CC"}],
            "From": {"Email": "from@example.com", "Name": "From"},
            "HTML": "<p>hello from mailpit</p>",
            "Headers": {},
            "ReplyTo": [{"Email": "replyto@example.com", "Name": "ReplyTo"}],
            "Subject": "Hello Mailpit",
            "Tags": [],
            "Text": "hello from mailpit",
            "To": [{"Email": "jane@example.com", "Name": "Jane"}],
        }
        sent = client.post("/api/v1/send", json=letter).json()["ID"]
        mail = "From: a@x.test\r\nTo: b@y.test\r\nSubject: By SMTP\r\n\r\nbody\r\n"
        smtp.sendmail("a@x.test", ["b@y.test"], mail)
        assert get("/api/v1/messages", start=0, limit=50)["messages_count"] == 2
        assert get("/api/v1/message/latest")["Subject"] == "By SMTP"
        for query, count in (("subject:Hello", 1), ("to:jane@example.com", 1), ("to:no", 0)):
            found = get("/api/v1/search", query=query, start=0, limit=50)
            assert found["messages_count"] == count
        message = get(f"/api/v1/message/{sent}")
        assert [each["FileName"] for each in message["Attachments"]] == ["a.txt"]
        assert [each["Address"] for each in message["To"]] == ["jane@example.com"]
        assert get(f"/view/{sent}.html") == letter["HTML"]
        assert get(f"/view/{sent}.txt").startswith("hello from mailpit")
        assert client.get(f"/api/v1/message/{sent}/sa-check").status_code == 404
        for body, unread in (
            ({"IDs": [], "Read": False}, 2),
            ({"IDs": [sent], "Read": True}, 1),
            ({"IDs": [], "Read": True}, 0),
        ):
            assert client.put("/api/v1/messages", json=body).text == "ok"
            assert get("/api/v1/messages")["unread"] == unread
        assert client.delete("/api/v1/search", params={"query": "subject:hello"}).text == "ok"
        assert get("/api/v1/messages")["total"] == 1
        assert client.delete("/api/v1/messages").text == "ok"
        assert get("/api/v1/messages")["messages"] == []
