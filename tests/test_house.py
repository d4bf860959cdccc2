"""The way of one message through the source: how many files it crosses."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

import ehlo
from ehlo import Handler, Message, Session
from support.serving import Serve

SOURCE = Path(ehlo.__file__).parent
MOST_FILES = {"usual": 17, "general": 18}  # 8 of the server, the others of the core

BODY = b"Subject: hello\r\n\r\n" + b"line\r\n" * 168


class Stored(Handler):
    """Has `on_message` alone."""

    async def on_message(self, session: Session, message: Message) -> None: ...


def test_one_message_crosses_few_files(serve: Serve, way: str) -> None:
    crossed: set[str] = set()
    sweeps = False

    def note(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal sweeps
        if frame.f_code.co_name == "_sweep":  # of all sessions, once a second
            sweeps = event == "call"
        path = Path(frame.f_code.co_filename)
        if event == "call" and not sweeps and path.is_relative_to(SOURCE):
            crossed.add(str(path.relative_to(SOURCE)))

    running = serve(Stored())

    async def begin() -> None:
        sys.setprofile(note)  # in the thread of the loop

    async def end() -> None:
        sys.setprofile(None)

    with running.ready() as client:
        client.mail(body=BODY)
        running.run(begin)
        try:
            client.mail(body=BODY)
        finally:
            running.run(end)
    crossed -= {"server/system/loops.py", "server/runtime.py", "server/observing/stats.py"}
    assert len(crossed) <= MOST_FILES[way], sorted(crossed)
    assert ("protocol/buffer.py" in crossed) == (way == "general")
