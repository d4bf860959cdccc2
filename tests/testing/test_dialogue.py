"""`ehlo.testing.dialogue`: the format, and the player against handlers, servers and ports."""

from __future__ import annotations

import asyncio
import base64
import doctest
import inspect
import re
import socket
import ssl
import threading
import tracemalloc
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehlo import Address, Handler, Message, Reject, Server, Session, conformance
from ehlo.testing import dialogue
from ehlo.testing.dialogue import DialogueError, Received, Scenario, Step, parse, text_of
from support.certificates import Certificates
from support.dialogue import DIRECTORY
from support.ports import reserved_port
from support.serving import DEADLINE

ENVELOPE = """
    S: 220...
    C: EHLO client.example
    S: <ehlo>
    C: MAIL FROM:<a@example.com>
    S: 250 2.1.0 Ok
    C: RCPT TO:<b@example.com>
    S: 250 2.1.5 Ok
"""
MESSAGE = f"""{ENVELOPE}
    C: DATA
    S: 354...
    C: Subject: hello
    C:
    C: ..dot
    C: .
    S: 250 2.0.0 Ok...
"""
WITH_MESSAGE = f"""{MESSAGE}
    C: QUIT
    S: 221...
    X:
    M: from <a@example.com>
    M: to <b@example.com>
    M| Subject: hello
    M|
    M| .dot
"""
BODY = b"Subject: hello\r\n\r\n.dot\r\n"
RECEIVED = Received("a@example.com", ["b@example.com"], BODY)


class Inbound(Handler):
    """Knows one recipient."""

    async def on_rcpt(
        self, session: Session, recipient: Address, params: Mapping[str, Any]
    ) -> None:
        if str(recipient) != "b@example.com":
            raise Reject(550, "5.1.1", "No such user here")

    async def on_message(self, session: Session, message: Message) -> None: ...


class Blocking(Inbound):
    """Has a `def` hook, and reads bodies on disk only as streams."""

    streams = True

    def on_message(self, session: Session, message: Message) -> str:  # type: ignore[override]  # a hook may be either
        return message.id


def four(remote_addr: object, mail_from: str, rcpt_tos: list[str], data: bytes) -> None: ...


def one(message: Message) -> None: ...


async def two(session: Session, message: Message) -> None: ...


# Of a reply that comes, however busy the machine is; one that does not come is waited for, too
play = partial(dialogue.play, timeout=DEADLINE)
SHORT = 3.0


def difference_in(text: str, target: dialogue.Target, **options: Any) -> str:
    with pytest.raises(DialogueError) as caught:
        play(text, target, **options)
    return str(caught.value)


# -- the format ----------------------------------------------------------------------------------

LINES = st.one_of(st.text(max_size=40).map(str.encode), st.binary(max_size=40))


@given(st.lists(st.one_of(LINES, LINES.map(lambda line: line + b"\r\n"))))
def test_every_byte_of_a_client_comes_back_from_the_text(sent: list[bytes]) -> None:
    scenario = Scenario("All bytes", [Step.of(data, time=1.25) for data in sent])
    text = text_of([scenario])
    [again] = parse(text)
    assert [step.data() for step in again.steps] == sent
    assert [step.time for step in again.steps] == [1.25] * len(sent)
    assert all(line == line.rstrip() for line in text.split("\n"))


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40))
def test_a_line_of_a_server_comes_back_from_the_text(said: str) -> None:
    text = text_of([Scenario("Said", [Step.heard(f"250 {said}")])])
    [again] = parse(text)
    assert dialogue.matches(again.steps[0].text, f"250 {said}")


@given(
    st.lists(
        st.builds(
            Received,
            st.text("ab@.", max_size=6),
            st.lists(st.text("ab@.", min_size=1, max_size=6), min_size=1),
            st.binary(max_size=60),
        )
    )
)
def test_messages_come_back_from_the_text(messages: list[Received]) -> None:
    [again] = parse(text_of([Scenario("Messages", messages=messages)]))
    assert again.messages == messages


@pytest.mark.parametrize("path", sorted(DIRECTORY.glob("*.smtp")), ids=lambda path: path.stem)
def test_every_dialogue_of_these_tests_is_the_same_when_it_is_written(path: Path) -> None:
    before = dialogue.load(path)
    after = parse(text_of(before))
    assert [(each.title, each.given, each.messages) for each in after] == [
        (each.title, each.given, each.messages) for each in before
    ]
    for old, new in zip(before, after, strict=True):
        assert [step._replace(line=0) for step in new.steps] == [
            step._replace(line=0) for step in old.steps
        ]


def test_braces_and_escapes_of_a_recording_are_no_places() -> None:
    sent = rb"NOOP {9 * x} \r {b64 x}" + b"\r\n"
    assert Step.of(sent).data() == sent
    assert "\\x7b9 * x}" in Step.of(sent).text


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("C: QUIT\nHELO", "line:2: 'HELO': not a line of a dialogue"),
        ("C<: \\q", "not an escape"),
        ("C<: a\\", "not an escape"),
        ("M| body", "a message begins with M: from"),
        ("M: from <a@b>\nM: cc <c@d>", "not a line of a message"),
        ("T: now", "not a line of a dialogue"),
        ("S<: 250", "write S:"),
    ],
)
def test_a_wrong_line_is_named(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=re.escape(wrong)):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "C*999999: NOOP\nS*999999: 250 2.0.0 Ok",
        "C: {99999999 * AAAAAAAAAAAAAAAA}",
        "C: {60000000 * A}{60000000 * A}",
        "C*1000: {1000000 * A}",
        "C: {60000000 * A}\n== Another\nC: {60000000 * A}",
        r"C<: {60000000 * \x41}",
        "M: from <a@b>\nM<: {99999999 * AA}",
    ],
)
def test_a_small_text_that_stands_for_much_is_an_error(text: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"line:\d: .*too large with what is repeated"):
            parse(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000


def test_a_count_of_seven_digits_is_no_line() -> None:
    with pytest.raises(ValueError, match="not a line of a dialogue"):
        parse("C*1000000: NOOP")


def test_a_large_body_is_parsed_in_proportional_time() -> None:
    [scenario] = parse("M: from <a@b>\nM: to <c@d>\n" + "M| line\n" * 200_000)
    assert len(scenario.messages[0].body) == 1_200_000


def test_a_file_that_is_too_large_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ehlo.testing.dialogue.scenario._MOST_BYTES", 10)
    path = tmp_path / "mine.smtp"
    path.write_text("# a comment\n")
    with pytest.raises(ValueError, match=r"^mine\.smtp: larger"):
        dialogue.load(path)


@pytest.mark.parametrize(
    "challenge",
    [
        "r=x,s=c2FsdA==,i=20000000",
        "r=x,s=c2FsdA==,i=0",
        "r=x,s=c2FsdA==,i=x",
        "hello",
    ],
)
def test_a_challenge_without_an_answer_is_a_difference(challenge: str) -> None:
    text = "S: 334 ...\nC: {final SHA-256 tim secret}\nS: 235 ..."
    encoded = base64.b64encode(challenge.encode())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        def serve() -> None:
            with listener.accept()[0] as client:
                client.sendall(b"334 " + encoded + b"\r\n")
                client.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        shown = difference_in(text, address, timeout=60)
        thread.join()
    assert "- C: {final SHA-256 tim secret}\n+ S: (no answer to this challenge: " in shown


def test_a_wrong_line_of_a_file_is_named_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.smtp"
    path.write_bytes(b"== One\r\nC: QUIT\r\nwrong\r\n")
    with pytest.raises(ValueError, match=r"^mine\.smtp:3: 'wrong'"):
        dialogue.load(path)


# -- docstrings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (module, name)
        for module in (dialogue, conformance)
        for name in module.__all__
        if callable(getattr(module, name))
    ],
)
def test_a_public_name_has_an_example_that_works(
    module: ModuleType, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = inspect.getdoc(getattr(module, name)) or ""
    examples = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    assert examples.examples
    assert doctest.DocTestRunner().run(examples).failed == 0


# -- handlers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [False, True])
@pytest.mark.parametrize("target", [Inbound, Inbound(), Blocking(), four, one, two])
def test_a_handler_is_played(target: Any, port: bool) -> None:
    assert play(WITH_MESSAGE, target, port=port) == [RECEIVED]


def test_a_server_keeps_its_options_and_may_be_played_again() -> None:
    server = Server(Inbound(), hostname="mx.example.com", appname="Mine", max_size=1000)
    text = """
        S: 220 mx.example.com Mine ESMTP Service ready
        C: EHLO client.example
        S: <ehlo> size 8bitmime !STARTTLS !auth
    """
    for _ in range(2):
        assert play(text, server) == []
    assert not server.addresses


def test_a_scenario_is_a_test(tmp_path: Path) -> None:
    path = tmp_path / "submission.smtp"
    path.write_text(text_of([Scenario("One", parse(MESSAGE)[0].steps)] * 2))
    assert play(path, Inbound()) == [RECEIVED] * 2
    scenario = dialogue.load(path)[0]
    assert str(scenario) == "submission: One"
    assert play(scenario, Inbound()) == [RECEIVED]


def test_the_functions_of_a_server_are_asked() -> None:
    server = Server(
        one,
        rcpt_handler=lambda _addr, _sender, to: to.startswith("b@"),
        auth_handler=lambda user, password: (user, password) == ("tim", "secret"),
        auth_mechs={"PLAIN": True},
    )
    play(
        r"""
        S: 220...
        C: EHLO client.example
        S: <ehlo> AUTH
        C: AUTH PLAIN {b64 \0tim\0wrong}
        S: 535 5.7.8...
        C: AUTH PLAIN {b64 \0tim\0secret}
        S: 235 2.7.0...
        C: MAIL FROM:<a@example.com>
        C: RCPT TO:<b@example.com>
        C: RCPT TO:<c@example.com>
        S: 250 2.1.0 Ok
        S: 250 2.1.5 Ok
        S: 550 5.1.1...
        """,
        server,
    )


@pytest.mark.parametrize("algorithm", ["SHA-1", "SHA-256"])
def test_secrets_are_proved(algorithm: str) -> None:
    class Known(Inbound):
        async def on_secret(self, session: Session, username: str) -> str | None:
            return "secret" if username == "tim" else None

    play(
        f"""
        S: 220...
        C: EHLO client.example
        S: <ehlo> AUTH
        C: AUTH SCRAM-{algorithm} {{first tim}}
        S: 334 {{challenge}}
        C: {{final {algorithm} tim secret}}
        S: 334 {{challenge}}
        C:
        S: 235 2.7.0...
        """,
        Server(Known(), auth_mechs={f"SCRAM-{algorithm}": True}),
    )
    play(
        """
        S: 220...
        C: EHLO client.example
        S: <ehlo> AUTH
        C: AUTH CRAM-MD5
        S: 334 {challenge}
        C: {cram tim secret}
        S: 235 2.7.0...
        """,
        Server(Known(), auth_mechs={"CRAM-MD5": True}),
    )


@pytest.mark.parametrize("port", [False, True])
def test_tls_is_played(certificates: Certificates, port: bool) -> None:
    text = f"""
        S: 220...
        C: EHLO client.example
        S: <ehlo> STARTTLS
        C: STARTTLS
        S: 220 2.0.0 Ready to start TLS
        T:
        {MESSAGE.replace("S: 220...", "").strip()}
        C: QUIT
        S: 221...
        X:
    """
    server = Server(Inbound(), tls_config=certificates.server())
    assert play(text, server, port=port) == [RECEIVED]
    shown = difference_in(text, server, tls=ssl.create_default_context())
    assert "- T:\n+ S: (no TLS: " in shown


def test_a_body_on_disk_is_compared() -> None:
    text = WITH_MESSAGE.replace("C: ..dot", "C: {5000 * x}").replace("M| .dot", f"M| {5000 * 'x'}")
    for handler in (Inbound(), Blocking()):
        [message] = play(text, Server(handler, spool_threshold=1000))
        assert len(message.body) == len(BODY) + 4996


def test_a_client_that_ends_is_played() -> None:
    play("S: 220...\nC: NOOP\nE:\nS: 250 2.0.0 Ok\nX:", Inbound())


def test_a_message_that_the_handler_rejects_is_not_accepted() -> None:
    def refuse(message: Message) -> bool:
        return False

    rejected = MESSAGE.replace("S: 250 2.0.0 Ok...", "S: 554 5.7.1...")
    assert play(rejected, refuse) == []


# -- servers that run ----------------------------------------------------------------------------


def test_a_server_that_runs_is_played_over_its_port() -> None:
    with Server(Inbound(), addr="127.0.0.1:0").in_thread() as server:
        address = server.addresses[0]
        for target in (server, address, str(address)):
            assert play(MESSAGE, target) == []
        with pytest.raises(ValueError, match="M: needs a server that this process starts"):
            play(WITH_MESSAGE, server)


def test_a_unix_socket_is_played(tmp_path: Path) -> None:
    with Server(Inbound(), addr=f"unix:{tmp_path}/s").in_thread() as server:
        play(MESSAGE, server)


def test_in_an_event_loop_it_is_awaited() -> None:
    async def within() -> list[Received]:
        with pytest.raises(RuntimeError, match="await play_async"):
            play(MESSAGE, Inbound())
        return await dialogue.play_async(MESSAGE, Inbound(), timeout=DEADLINE)

    assert asyncio.run(within()) == [RECEIVED]


# -- differences ---------------------------------------------------------------------------------


def test_a_wrong_reply_is_shown_with_what_led_to_it() -> None:
    text = f"{ENVELOPE}\n    C: RCPT TO:<no@example.com>\n    S: 250 2.1.5 Ok\n"
    shown = difference_in(text, Inbound())
    assert shown.splitlines()[0] == "dialogue (line:11)"
    assert shown.endswith(
        "  C: RCPT TO:<b@example.com>\n"
        "  S: 250 2.1.5 Ok\n"
        "  C: RCPT TO:<no@example.com>\n"
        "- S: 250 2.1.5 Ok\n"
        "+ S: 550 5.1.1 No such user here"
    )


def test_the_file_and_the_line_are_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.smtp"
    path.write_text("== It leaves\nS: 220...\n\nC: QUIT\nS: 250 Ok\n")
    assert difference_in(path, Inbound()).startswith("mine: It leaves (mine.smtp:5)\n")  # type: ignore[arg-type]  # a path


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("S: 220...\nC: NOOP", "- (the end)\n+ S: 250 2.0.0 Ok"),
        ("S: 220...\nC: QUIT\nX:", "+ S: 221 2.0.0..."),
        ("S: 220...\nC: QUIT\nS: 221...\nC: NOOP\nS: 250...", "+ S: (the connection is closed)"),
        ("S: 220...\nC: NOO\nS: <ehlo>", "- S: <ehlo>\n+ S: 500 5.5.2..."),
        ("S: 220...\nC: EHLO c\nS: <ehlo> DSN", "+ S: (DSN is not offered)"),
        ("S: 220...\nC: EHLO c\nS: <ehlo> !SIZE", "+ S: (SIZE is offered)"),
        ("S: 220...\nS: 250 {challenge}", "+ S: (nothing within 3 s)"),
        ("S: 220...\nX:", "- (the end)\n+ S: (nothing within 3 s)"),
    ],
)
def test_the_difference_ends_with_what_the_server_did(text: str, end: str) -> None:
    shown = difference_in(text, Inbound(), timeout=SHORT if "nothing" in end else DEADLINE)
    if end.endswith("..."):
        assert end[:-3] in shown
    else:
        assert shown.endswith(end)


def test_long_and_harmful_lines_are_shown_safely() -> None:
    class Loud(Inbound):
        async def on_rcpt(self, *_: object) -> None:
            raise Reject(550, "5.1.1", "é" + "x" * 400)

    shown = difference_in(f"{ENVELOPE}", Loud())
    assert len(shown.splitlines()[-1]) < 200
    assert "\\x1b" in difference_in("S: 220 \x1b[2J", Inbound())


@pytest.mark.parametrize("port", [False, True])
@pytest.mark.parametrize("kind", ["async def", "def"])
def test_a_hook_that_hangs_is_a_difference_at_once(port: bool, kind: str) -> None:
    done = threading.Event()

    class Hanging(Inbound):
        async def on_rcpt(self, *_: object) -> None:
            await asyncio.Event().wait()

    class HangingInThread(Inbound):
        def on_rcpt(self, *_: object) -> None:  # type: ignore[override]  # a hook may be either
            done.wait(60)

    handler = Hanging() if kind == "async def" else HangingInThread()
    shown = difference_in(ENVELOPE, Server(handler, grace=3600), port=port, timeout=SHORT)
    done.set()
    assert shown.endswith("- S: 250 2.1.5 Ok\n+ S: (nothing within 3 s)")


def test_only_the_last_lines_are_shown() -> None:
    shown = difference_in(
        "S: 220...\n" + "C: NOOP\nS: 250 2.0.0 Ok\n" * 20 + "X:", one, timeout=SHORT
    )
    assert "\n  ... 29 lines\n" in shown
    assert len(shown.splitlines()) == 16


def test_other_messages_are_shown() -> None:
    shown = difference_in(WITH_MESSAGE.replace("M| .dot", "M| dot"), Inbound())
    assert shown.startswith("dialogue: other messages\n--- expected\n+++ accepted\n")
    assert "\n-M<: dot\\r\\n\n+M<: .dot\\r\\n" in shown
    missing = difference_in(f"{ENVELOPE}\n    M: from <a@example.com>\n    M: to <b@c>", Inbound())
    assert missing.endswith("-M: from <a@example.com>\n-M: to <b@c>")


# -- what cannot be played -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("= max_size 1000", "= max_size 1000: set options on the Server instead"),
        ("S: 220...\n!: idle", "line 2: !: cannot be played"),
    ],
)
def test_what_cannot_be_played_is_a_value_error(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=re.escape(wrong)):
        play(text, Inbound())


def test_no_connection_is_an_os_error() -> None:
    with pytest.raises(ConnectionRefusedError):
        play("S: 220...", f"127.0.0.1:{reserved_port()}")


def test_a_wrong_target_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="handler must be"):
        play("S: 220...", 25)  # type: ignore[arg-type]  # on purpose
