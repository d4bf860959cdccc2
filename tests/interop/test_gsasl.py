"""GNU SASL's `gsasl`, which speaks SMTP as far as to the login, and the -PLUS forms with it.

Its binding is `tls-unique` under TLS 1.2. Under TLS 1.3 it has `tls-exporter` only, which Python's
ssl cannot tell. While it holds any binding it does SCRAM in the -PLUS forms alone: `--no-cb` lets
it do the others.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable

import pytest

from .clients import Outcome
from .peers import peer, run
from .post import ASCII_USER, PASSWORD, USER, Office

Serve = Callable[..., Office]

BARE = ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256")
PLUS = ("SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS")
OLD = ssl.TLSVersion.TLSv1_2
NEW = ssl.TLSVersion.TLSv1_3


def gsasl(
    office: Office, *options: str, user: str = ASCII_USER, password: str = PASSWORD
) -> Outcome:
    """Log in over STARTTLS; the certificate is verified."""
    command = [
        *(peer("gsasl"), "--smtp", "--starttls", f"--x509-ca-file={office.authority}"),
        *(f"--connect=localhost:{office.port}", f"--authentication-id={user}"),
        *(f"--password={password}", *options),
    ]
    done = run(command, env={"LC_ALL": "C.UTF-8"})
    return Outcome(done.returncode == 0, done.stdout.decode(errors="replace"))


def with_mechanism(name: str) -> tuple[str, ...]:
    return (f"--mechanism={name}", *([] if name in PLUS else ["--no-cb"]))


@pytest.mark.parametrize("version", [OLD, NEW], ids=["1.2", "1.3"])
@pytest.mark.parametrize("user", [ASCII_USER, USER])
@pytest.mark.parametrize("mechanism", BARE)
def test_gsasl_logs_in(serve: Serve, mechanism: str, user: str, version: ssl.TLSVersion) -> None:
    office = serve("starttls", newest_tls=version)
    outcome = gsasl(office, *with_mechanism(mechanism), user=user)
    assert outcome.sent, outcome.said
    assert f"C: AUTH {mechanism}" in office.transcript
    assert "S: 235 2.7.0 Authentication successful" in office.transcript


@pytest.mark.parametrize("mechanism", PLUS)
def test_gsasl_binds_to_the_tls_connection(serve: Serve, mechanism: str) -> None:
    office = serve("starttls", newest_tls=OLD)
    outcome = gsasl(office, *with_mechanism(mechanism))
    assert outcome.sent, outcome.said
    assert base64.b64encode(b"p=tls-unique,,n=").decode()[:20] in outcome.said
    assert "S: 235 2.7.0 Authentication successful" in office.transcript


def test_gsasl_chooses_the_strongest_mechanism(serve: Serve) -> None:
    office = serve("starttls", newest_tls=OLD)
    outcome = gsasl(office)
    assert outcome.sent, outcome.said
    assert "C: AUTH SCRAM-SHA-256-PLUS" in office.transcript


@pytest.mark.parametrize("mechanism", PLUS)
def test_gsasl_cannot_use_a_binding_that_python_does_not_support(
    serve: Serve, mechanism: str
) -> None:
    office = serve("starttls", newest_tls=NEW)
    outcome = gsasl(office, *with_mechanism(mechanism))
    assert not outcome.sent
    assert base64.b64encode(b"p=tls-exporter,,").decode()[:20] in outcome.said
    assert "535 5.7.8" in outcome.said


@pytest.mark.parametrize("mechanism", [*BARE, *PLUS])
def test_gsasl_reports_a_wrong_password(serve: Serve, mechanism: str) -> None:
    office = serve("starttls", newest_tls=OLD)
    for user, password in ((ASCII_USER, "not this one"), ("nobody@example.com", PASSWORD)):
        outcome = gsasl(office, *with_mechanism(mechanism), user=user, password=password)
        assert not outcome.sent
        assert "535 5.7.8" in outcome.said
    assert "235 2.7.0" not in office.transcript


def test_gsasl_logs_in_anonymously(serve: Serve) -> None:
    office = serve("starttls", auth_mechs={"ANONYMOUS": True})
    outcome = gsasl(office, *with_mechanism("ANONYMOUS"), "--anonymous-token=sirhc")
    assert outcome.sent, outcome.said


def test_gsasl_logs_in_with_a_certificate(serve: Serve) -> None:
    office = serve("starttls", auth_mechs={"EXTERNAL": True})
    pem = office.client_certificate
    files = (f"--x509-cert-file={pem}", f"--x509-key-file={pem}")
    outcome = gsasl(office, *with_mechanism("EXTERNAL"), *files, f"--authorization-id={ASCII_USER}")
    assert outcome.sent, outcome.said
    assert not gsasl(office, *with_mechanism("EXTERNAL"), "--authorization-id=anna").sent
