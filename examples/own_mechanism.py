"""Adds a login mechanism, written as a generator: a user name and a code that is valid once."""

import hmac
import logging
import sys
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import ehlo

CODES = {"alice": ["271828", "314159"]}


@dataclass(frozen=True, slots=True)
class CodeCredentials(ehlo.Credentials):
    """The credentials that the mechanism passes to `on_auth`."""

    username: str
    code: str = field(repr=False)


def one_time(
    initial: bytes | None, context: ehlo.AuthContext
) -> Generator[bytes | ehlo.Credentials, Any, None]:
    """Yield challenges and receive responses; yield credentials and receive the decision."""
    name = (yield b"Name?") if initial is None else initial
    code = yield b"Code?"
    if not name:
        raise ValueError("no name")  # answered with 501; the client does not see this text
    yield CodeCredentials(name.decode(), code.decode())


class OneTime(ehlo.Handler):
    async def on_auth(self, session: ehlo.Session, credentials: ehlo.Credentials) -> str | None:
        if not isinstance(credentials, CodeCredentials):
            return None
        given = credentials.code.encode()
        codes = CODES.get(credentials.username, [])
        right = [code for code in codes if hmac.compare_digest(code.encode(), given)]
        if not right:
            return None
        codes.remove(right[0])
        return credentials.username

    async def on_message(self, session: ehlo.Session, message: ehlo.Message) -> None:
        print(f"mail from {session.user}: {message.size} bytes")


logging.basicConfig(level=logging.INFO)
ehlo.Server(
    OneTime(),
    addr=sys.argv[1] if sys.argv[1:] else "127.0.0.1:2525",
    auth_required=True,
    # No TLS is needed: a code that an eavesdropper sees has already been used
    auth_mechs={"X-ONE-TIME": ehlo.Mechanism("X-ONE-TIME", one_time, needs_tls=False)},
).listen_and_serve()
