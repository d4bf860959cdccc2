"""A wrong password as a user sees it: `535 5.7.8` and one failed login, whatever a client tries."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import ehlo
from ehlo.server.limits import FailedLogins

from .clients import ITS_CHOICE, Client, Task
from .post import ASCII_USER, PASSWORD, Certificates, Office, Post

Serve = Callable[..., Office]

MAIL = b"Subject: By password\r\n\r\nHello.\r\n"
CLIENTS = ("smtplib", "swaks", "curl", "msmtp")


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FailedLogins, "delay", lambda _self, _key: 0.0)


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("security", ["plain", "starttls"])
def test_a_wrong_password_is_535_and_one_failure(
    clients: dict[str, Client], serve: Serve, name: str, security: str
) -> None:
    """Where PLAIN, LOGIN, CRAM-MD5 and SCRAM are offered; a second failure would be the last."""
    options = {"PLAIN": True, "LOGIN": True} if security == "plain" else {}
    office = serve(
        security, auth_required=True, auth_mechs=options, max_auth_failures=2, exempt_networks=()
    )
    wrong = Task(office, MAIL, mechanism=ITS_CHOICE, user=ASCII_USER, password="not this one")
    outcome = clients[name].send(wrong)
    assert not outcome.sent
    assert "535" in outcome.said
    assert "5.7.8" in outcome.said
    assert "S: 421" not in office.transcript
    assert "S: 454" not in office.transcript
    assert "S: 535" in office.transcript
    right = Task(office, MAIL, mechanism=ITS_CHOICE, user=ASCII_USER)
    outcome = clients[name].send(right)
    assert outcome.sent, outcome.said
    assert [message.user for message in office.received] == [ASCII_USER]


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("password", [PASSWORD, "not this one"])
def test_a_function_that_keeps_hashes_works_with_each_client(
    clients: dict[str, Client], certificates: Certificates, name: str, password: str
) -> None:
    users: list[str] = []

    def check(username: str, password: str) -> bool:
        return (hash(username), hash(password)) == (hash(ASCII_USER), hash(PASSWORD))

    def handler(_peer: object, _mail_from: str, _rcpt_tos: list[str], _data: bytes) -> None:
        users.append("mail")

    server = ehlo.Server(
        handler,
        addr="127.0.0.1:0",
        auth_handler=check,
        auth_required=True,
        max_auth_failures=1,
        exempt_networks=(),
    )
    server.configure_tls(str(certificates.certificate), str(certificates.key))
    with server.in_thread():
        port = server.addresses[0].port
        office = Office(port, "starttls", certificates.authority, Post())
        task = Task(office, MAIL, mechanism=ITS_CHOICE, user=ASCII_USER, password=password)
        outcome = clients[name].send(task)
    if password == PASSWORD:
        assert outcome.sent, outcome.said
        assert users == ["mail"]
    else:
        assert not outcome.sent
        assert "535" in outcome.said
        assert "5.7.8" in outcome.said
        assert users == []
