"""An extension of a user's own: its keyword, its parameters, its command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ehlo import Address, Handler, Message, Reject, Reply, Server, Session
from ehlo.protocol.extensions import Extension
from support.certificates import Certificates
from support.serving import Box, Collector, Serve


def color(value: str | None) -> str:
    if value not in ("red", "blue"):
        raise ValueError("no such color")
    return value


XFOO = Extension(
    "XFOO", 0, argument=lambda _facts: "BAR", rcpt={"XCOLOR": color}, verbs=("XFOO", "XBAR")
)


class Foo(Collector):
    """Notes what is said by the extension."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[str, str]] = []
        self.colors: list[Any] = []
        self.answer: Any = None

    async def on_rcpt(
        self, session: Session, recipient: Address, params: Mapping[str, Any]
    ) -> None:
        self.colors.append(params.get("XCOLOR"))

    async def on_command(self, session: Session, verb: str, argument: str) -> Reply | None:
        self.said.append((verb, argument))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]  # as wrong as a test wants it


def test_keyword_parameter_and_command_are_there(serve: Serve) -> None:
    foo = Foo()
    with serve(foo, own_extensions=[XFOO]).client() as client:
        assert client.hello().splitlines()[-1] == "250 XFOO BAR"
        assert client.say("xFoo  Hello there ") == "250 2.0.0 Ok"
        assert client.say("XBAR") == "250 2.0.0 Ok"
        client.say("MAIL FROM:<a@example.com>")
        assert client.say("XFOO in a transaction") == "250 2.0.0 Ok"
        assert client.say("RCPT TO:<b@example.com> XCOLOR=red") == "250 2.1.5 Ok"
        assert client.say("RCPT TO:<b@example.com> XCOLOR=grey").startswith("501 5.5.4 ")
        assert client.say("XFOO ü") == "250 2.0.0 Ok"
        assert "XBAR XFOO" in client.say("HELP")
        client.send(b"BDAT 0 LAST\r\n")
        assert client.reply() == "250 2.0.0 Ok: queued"
    assert foo.said == [
        *(("XFOO", "Hello there"), ("XBAR", "")),
        *(("XFOO", "in a transaction"), ("XFOO", "ü")),
    ]
    assert foo.colors == ["red"]
    assert foo.messages[0].recipients[0].params == {"XCOLOR": "red"}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Reply(211, "2.0.0", "two\nlines"), "211-2.0.0 two\n211 2.0.0 lines"),
        (Reply(550, "5.7.1", "No"), "550 5.7.1 No"),
        (Reject(450, "4.7.1", "Not now"), "450 4.7.1 Not now"),
        (RuntimeError("a bug"), "451 4.3.0 Requested action aborted: local error in processing"),
        (Reply(354), "451 4.3.0 Requested action aborted: local error in processing"),
        ("text", "451 4.3.0 Requested action aborted: local error in processing"),
        (0, "451 4.3.0 Requested action aborted: local error in processing"),
        (False, "550 5.7.1 Requested action refused"),
    ],
)
def test_the_hook_answers(serve: Serve, answer: Any, said: str) -> None:
    foo = Foo()
    foo.answer = answer
    with serve(foo, own_extensions=[XFOO]).ready() as client:
        assert client.say("XFOO") == said
        foo.answer = None
        assert client.say("XFOO") == "250 2.0.0 Ok"


def test_a_421_closes(serve: Serve) -> None:
    foo = Foo()
    foo.answer = Reply(421, "4.3.2", "Bye")
    with serve(foo, own_extensions=[XFOO]).ready() as client:
        assert client.say("XFOO") == "421 4.3.2 Bye"
        assert client.is_closed()


def test_an_own_command_runs_in_order_among_pipelined_commands(serve: Serve) -> None:
    class Deciding(Handler):
        def on_command(self, session: Session, verb: str, argument: str) -> None:
            session.state.color = argument

        def on_message(self, session: Session, message: Message) -> str:
            color: str = session.state.color
            return color

    with serve(Deciding(), own_extensions=[XFOO]).ready() as client:
        client.send(
            b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nXFOO red\r\nBDAT 0 LAST\r\nXFOO blue\r\nNOOP\r\n"
        )
        assert client.replies(6)[3:] == [
            *("250 2.0.0 Ok: queued as red", "250 2.0.0 Ok", "250 2.0.0 Ok"),
        ]


def test_it_is_behind_the_same_gates(serve: Serve, certificates: Certificates) -> None:
    foo = Foo()
    options = {"tls_config": certificates.server(), "tls_required": True}
    with serve(foo, own_extensions=[XFOO], **options).client() as client:
        client.reply()
        assert client.say("XFOO").startswith("530 5.7.0 ")
        client.say("EHLO c")
        assert client.say("XFOO").startswith("530 5.7.0 ")
        client.say("STARTTLS")
        client.wrap(certificates.client)
        assert client.say("XFOO").startswith("503 5.5.1 ")
        client.say("EHLO c")
        assert client.say("XFOO") == "250 2.0.0 Ok"
    assert len(foo.said) == 1


def test_not_between_two_chunks(serve: Serve) -> None:
    foo = Foo()
    with serve(foo, own_extensions=[XFOO]).ready() as client:
        client.send(b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nBDAT 4\r\nXFOOXFOO\r\n")
        assert client.replies(4)[2:] == [
            *("250 2.0.0 4 octets received", "503 5.5.1 Bad sequence of commands"),
        ]
    assert foo.said == []


def test_without_it_there_is_no_such_command(serve: Serve) -> None:
    foo = Foo()
    with serve(foo).ready() as client:
        assert client.say("XFOO").startswith("500 5.5.2 ")
        client.say("MAIL FROM:<a@x>")
        assert client.say("RCPT TO:<b@x> XCOLOR=red").startswith("555 5.5.4 ")
    assert foo.said == []


def test_a_command_needs_a_hook(serve: Serve) -> None:
    with pytest.raises(ValueError, match="define on_command"):
        serve(Box(), own_extensions=[XFOO])
    running = serve(Box(), own_extensions=[Extension("XFOO", 0, rcpt={"XCOLOR": color})])
    with running.client() as client:
        assert client.hello().splitlines()[-1] == "250 XFOO"


@pytest.mark.parametrize(
    "verb",
    [
        *("DATA", "BDAT", "RCPT", "MAIL", "LHLO", "XCLIENT", "STARTTLS", "NOOP"),
        *("xfoo", "XFoo", "", "X FOO", "XFOO\r\n", "XÜ", "*", "XF", "X" * 33, "-X-"),
    ],
)
def test_a_command_must_be_one_that_can_be_met_and_none_of_smtp(verb: str) -> None:
    """RCPT of a user's own would reach a transaction that is not there."""
    row = Extension("XFOO", 0, verbs=(verb,))
    with (
        pytest.raises(ValueError, match="cannot be a command"),
        Server(Foo(), addr="127.0.0.1:0", own_extensions=[row]).in_thread(),
    ):
        pass


def test_a_parser_that_fails_is_our_trouble(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    def careless(value: str | None) -> int:
        return len(value)  # type: ignore[arg-type]  # the mistake that is shown here

    running = serve(
        Box(), own_extensions=[Extension("XFOO", 0, mail={"XLEN": careless}, rcpt={"X": careless})]
    )
    with running.ready() as client:
        assert client.say("MAIL FROM:<a@x> XLEN").startswith("451 4.3.0 ")
        assert client.say("MAIL FROM:<a@x> XLEN=abc") == "250 2.1.0 Ok"
        assert client.say("RCPT TO:<a@x> X").startswith("451 4.3.0 ")
        assert client.say("RCPT TO:<a@x> X=abc") == "250 2.1.5 Ok"
    assert "the parser of XLEN failed" in caplog.text


@pytest.mark.parametrize("argument", ["", "x" * 600, "a\r\nb"])
def test_an_extension_that_fails_is_not_offered_and_its_parameters_are_our_trouble(
    serve: Serve, caplog: pytest.LogCaptureFixture, argument: str
) -> None:
    healthy = True

    def careless(_facts: object) -> str:
        if not (healthy or argument):
            raise KeyError("a bug")
        return "1" if healthy else argument

    def offered(_facts: object) -> bool:
        return careless(None) == "1"

    rows = [
        Extension("XARG", 0, argument=careless),
        Extension("XYES", 0, offered=offered, mail={"XLEN": str}, promise=True),
    ]
    running = serve(Box(), own_extensions=rows)
    healthy = False
    with running.client() as client:
        lines = client.hello()
        assert lines.startswith("250-")
        assert "XARG" not in lines
        assert "XYES" not in lines
        wanted = "555 5.5.4" if argument else "451 4.3.0"
        assert client.say("MAIL FROM:<a@x> XLEN=abc").startswith(wanted)
        assert client.say("MAIL FROM:<a@x>") == "250 2.1.0 Ok"
    assert "the extension XARG failed" in caplog.text


def test_an_answer_that_is_neither_true_nor_false_is_not_offered(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    class Several:
        def __bool__(self) -> bool:
            raise ValueError("the truth value is ambiguous")

    answers: list[Any] = [False]
    row = Extension("XODD", 0, offered=lambda _facts: answers[-1])
    running = serve(Box(), own_extensions=[row])
    answers.append(Several())
    with running.client() as client:
        assert "XODD" not in client.hello()
        assert client.say("NOOP") == "250 2.0.0 Ok"
    assert "the extension XODD failed" in caplog.text
