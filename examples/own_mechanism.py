"""A mechanism of one's own, as a generator: a name, and a code that is good once."""

import logging
import sys
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import ehlo

CODES = {"alice": ["271828", "314159"]}


@dataclass(frozen=True, slots=True)
class CodeCredentials(ehlo.Credentials):
    """What the mechanism learns, for `on_auth`."""

    username: str
    code: str = field(repr=False)


def one_time(
    initial: bytes | None, context: ehlo.AuthContext
) -> Generator[bytes | ehlo.Credentials, Any, None]:
    """Yield challenges, get responses; yield credentials, get the decision."""
    name = (yield b"Name?") if initial is None else initial
    code = yield b"Code?"
    if not name:
        raise ValueError("no name")  # 501, and the client does not see this text
    yield CodeCredentials(name.decode(), code.decode())


class OneTime(ehlo.Handler):
    async def on_auth(self, session: ehlo.Session, credentials: ehlo.Credentials) -> str | None:
        if not isinstance(credentials, CodeCredentials):
            return None
        codes = CODES.get(credentials.username, [])
        if credentials.code not in codes:
            return None
        codes.remove(credentials.code)
        return credentials.username

    async def on_message(self, session: ehlo.Session, message: ehlo.Message) -> None:
        print(f"mail from {session.user}: {message.size} bytes")


logging.basicConfig(level=logging.INFO)
ehlo.Server(
    OneTime(),
    addr=sys.argv[1] if sys.argv[1:] else "127.0.0.1:2525",
    auth_required=True,
    # It may be seen by others, since a code is worth nothing once it was used
    auth_mechs={"X-ONE-TIME": ehlo.Mechanism("X-ONE-TIME", one_time, needs_tls=False)},
).listen_and_serve()
