"""`ehlo check` on ehlo: nothing fails, except the one departure that is documented."""

from __future__ import annotations

from typing import Any

import pytest

from ehlo import Server
from ehlo.conformance import Patience, check
from support.certificates import Certificates
from support.serving import Box

PATIENCE = Patience(reply=60, hush=0.05, total=3600)
LF_IN_COMMANDS = "A command ends with CRLF, and with nothing else"


@pytest.mark.parametrize(
    "options",
    [{}, {"bare_newlines": "reject"}, {"bare_newlines": "keep"}, {"strict_eol": True}],
    ids=str,
)
def test_all_passes_except_that_a_lone_lf_ends_a_command(
    certificates: Certificates, loop_name: str, options: dict[str, Any]
) -> None:
    box = Box()
    common: dict[str, Any] = {"loop": loop_name, "max_size": 1_000_000}
    server = Server(box, addr="127.0.0.1:0", tls_config=certificates.server(), **common, **options)
    with server.in_thread():
        results = list(check(server.addresses[0], patience=PATIENCE))
    assert {result.case.title: result.outcome for result in results} == {
        result.case.title: "failed" if result.case.title == LF_IN_COMMANDS else "passed"
        for result in results
    }
    assert all(b"after" in body for body in box.bodies if b"smuggled" in body)
