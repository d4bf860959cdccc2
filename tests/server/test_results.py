"""What a hook returns, and what follows: the reply, the next state, and the log. One table."""

from __future__ import annotations

import functools
import json
import logging
import re
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import ehlo
from ehlo import Handler, Reject, Reply
from ehlo.protocol import verbs
from ehlo.server.results import ASKED, MEANINGS, answer_of
from support.client import Client
from support.hooks import HOOKS, KINDS, Noted, handler_of
from support.logins import cram_md5, plain
from support.serving import Serve

YES, NO, SAID, TROUBLE = "yes", "no", "said", "trouble"

GREYLISTED = Reply(450, "4.7.1", "Greylisted")
UNKNOWN = Reply(550, "5.1.1", "No such user")


async def forgotten() -> None:
    pytest.fail("it is not awaited")


def generator() -> Iterator[None]:
    yield


class Row(NamedTuple):
    """What a result means: for a hook that is asked, and for those that differ.

    A mark `!` says that the log has an error, which names the function.
    """

    asked: str
    rcpt_handler: str
    on_auth: str
    on_message: str
    auth_handler: str = "trouble!"


# A function makes the result, since a coroutine can be used once
TABLE: dict[str, tuple[Callable[[], object], Row]] = {
    "None": (lambda: None, Row(YES, "trouble!", NO, YES, NO)),
    "True": (lambda: True, Row(YES, YES, "trouble!", YES, YES)),
    "False": (lambda: False, Row(NO, NO, NO, NO, NO)),
    "a Reply 4xx": (lambda: GREYLISTED, Row(SAID, SAID, SAID, SAID)),
    "a Reply 5xx": (lambda: UNKNOWN, Row(SAID, SAID, SAID, SAID)),
    "a Reply 3xx": (lambda: Reply(334), Row("trouble!", "trouble!", "trouble!", "yes!")),
    "a Reject": (lambda: Reject.of(UNKNOWN), Row("trouble!", SAID, "trouble!", "trouble!")),
    "1": (lambda: 1, Row("trouble!", "trouble!", "trouble!", "yes!")),
    "0": (lambda: 0, Row("trouble!", "trouble!", "trouble!", "yes!")),
    "550": (lambda: 550, Row("trouble!", "trouble!", "trouble!", "yes!")),
    "1.0": (lambda: 1.0, Row("trouble!", "trouble!", "trouble!", "yes!")),
    "no text": (lambda: "", Row("trouble!", "trouble!", "trouble!", "yes!")),
    "250 OK": (lambda: "250 OK", Row("trouble!", "trouble!", "trouble!", "yes!")),
    "354 Go on": (lambda: "354 Go on", Row("trouble!", "trouble!", "trouble!", "yes!")),
    "550 No": (lambda: "550 No", Row("trouble!", "trouble!", "trouble!", "trouble!")),
    "451-a reply": (lambda: "451-No\n451 No", Row("trouble!", "trouble!", "trouble!", "trouble!")),
    "bytes": (lambda: b"id-7", Row("trouble!", "trouble!", "trouble!", "yes!")),
    "b'250 OK'": (lambda: b"250 OK", Row("trouble!", "trouble!", "trouble!", "yes!")),
    "b'550 No'": (lambda: b"550 No", Row("trouble!", "trouble!", "trouble!", "trouble!")),
    "a list": (lambda: [b"a mail"], Row("trouble!", "trouble!", "trouble!", "yes!")),
    "a tuple": (lambda: (550, "No"), Row("trouble!", "trouble!", "trouble!", "yes!")),
    "an object": (object, Row("trouble!", "trouble!", "trouble!", "yes!")),
    "a mapping": (lambda: {"x": 1}, Row("trouble!", "trouble!", "trouble!", "yes!")),
    "a mapping that rejects": (
        lambda: {"b@example.com": UNKNOWN},
        Row("trouble!", "trouble!", "trouble!", "trouble!"),
    ),
    # The body of these functions has not run, so that nothing is stored
    "a coroutine": (forgotten, Row("trouble!", "trouble!", "trouble!", "trouble!")),
    "a generator": (generator, Row("trouble!", "trouble!", "trouble!", "trouble!")),
}


class Moment(NamedTuple):
    """A command that a hook answers: what the client sends before it, and after it.

    Replies are given by their beginning: of acceptance, of `False`, and of trouble. `then` is the
    next command, with its reply after acceptance and after a rejection: the state that follows.
    """

    before: tuple[str, ...]
    command: str
    yes: str
    no: str
    then: tuple[str, str, str]
    trouble: str = "451 4.3.0"


HELLO, MAIL, RCPT = "EHLO c", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.com>"

MOMENTS = {
    "on_connect": Moment((), "", "220 mx", "554 No", (HELLO, "250", "503"), "421 4.3.0"),
    "on_hello": Moment(("",), HELLO, "250", "550 R", (MAIL, "250", "503"), "451 R"),
    "on_mail": Moment(("", HELLO), MAIL, "250 2.1.0", "550 5.7.1", (RCPT, "250", "503")),
    "on_rcpt": Moment(("", HELLO, MAIL), RCPT, "250 2.1.5", "550 5.1.1", ("DATA", "354", "554")),
    "rcpt_handler": Moment(
        ("", HELLO, MAIL),
        RCPT,
        "250 2.1.5",
        "550 5.1.1 Requested action not taken: mailbox unavailable",
        ("DATA", "354", "554"),
    ),
    "on_data": Moment(
        ("", HELLO, MAIL, RCPT), "DATA", "354", "554 5.7.1", (".", "250 2.0.0", "500 5.5.2")
    ),
    "on_message": Moment(
        ("", HELLO, MAIL, RCPT, "DATA"),
        "x\r\n.",
        "250 2.0.0 Ok: queued",
        "554 5.7.1",
        (MAIL, "250", "250"),
    ),
    "on_vrfy": Moment(("", HELLO), "VRFY x", "252 2.5.0", "550 5.7.1", (MAIL, "250", "250")),
    "on_reset": Moment(("", HELLO, MAIL), "RSET", "250", "550 5.7.1", (MAIL, "250", "503")),
    "on_command": Moment(("", HELLO), "XFOO", "250 2.0.0", "550 5.7.1", (MAIL, "250", "250")),
    "on_auth": Moment(
        ("", HELLO),
        plain("alice", "wonder"),
        "235",
        "535 5.7.8",
        (MAIL, "250", "530"),
        "454 4.7.0",
    ),
}
MOMENTS["auth_handler"] = MOMENTS["on_auth"]
OPTIONS: dict[str, dict[str, Any]] = {
    "on_command": {"own_extensions": [ehlo.Extension("XFOO", 0, verbs=("XFOO",))]},
    "on_auth": {"auth_mechs": {"PLAIN": True}, "auth_required": True},
}
OPTIONS["auth_handler"] = OPTIONS["on_auth"]
FUNCTIONS = ("rcpt_handler", "auth_handler")
HOOKS.setdefault("on_command", 3)


def outcome_of(hook: str, row: Row) -> str:
    """Return the outcome of a result for a hook."""
    outcome: str = getattr(row, hook, row.asked)
    return outcome


@contextmanager
def asking(serve: Serve, hook: str, kind: str, result: Callable[[], object]) -> Iterator[Client]:
    """Serve with a hook that returns what `result` makes, and connect."""
    options = OPTIONS.get(hook, {})
    if hook in FUNCTIONS:

        def function(*_: object) -> object:
            return result()

        async def function_async(*_: object) -> object:
            return result()

        handler: Any = lambda *_: None  # noqa: E731
        options = options | {hook: function if kind == "def" else function_async}
    else:
        handler = handler_of(kind, **{hook: lambda *_: result()})
    with serve(handler, **options).client() as client:
        yield client


def say(client: Client, command: str) -> str:
    """Send a command, or nothing for the greeting, and return the reply."""
    return client.say(command) if command else client.reply()


@pytest.mark.parametrize("hook", MOMENTS)
@pytest.mark.parametrize("named", TABLE)
def test_a_result_is_a_reply_a_state_and_a_line_of_the_log(
    serve: Serve, hook: str, named: str, caplog: pytest.LogCaptureFixture, no_delay: None
) -> None:
    result, row = TABLE[named]
    moment, outcome = MOMENTS[hook], outcome_of(hook, row)
    wanted, logged, _ = outcome.partition("!")
    with asking(serve, hook, "async def", result) as client:
        for command in moment.before:
            say(client, command)
        reply = say(client, moment.command)
        if wanted == SAID:
            words = str(result() if isinstance(result(), Reply) else UNKNOWN)
            plain = hook in ("on_connect", "on_hello")
            assert reply == (words[:4] + words[10:] if plain else words)
        else:
            expected = {YES: moment.yes, "user": moment.yes, NO: moment.no, TROUBLE: moment.trouble}
            assert reply.startswith(expected[wanted])
        accepted = wanted in (YES, "user")
        if reply.startswith("421"):
            assert client.is_closed()
        else:
            command, after_yes, after_no = moment.then
            assert client.say(command).startswith(after_yes if accepted else after_no)
    errors = [record for record in caplog.records if record.name == "ehlo.handler"]
    assert len(errors) == len(logged)
    for record in errors:
        assert record.levelno == logging.ERROR
        assert record.exc_info is None  # there is nothing to see in it of the user's code
        assert f"{hook} (" in record.getMessage()
        assert f"return {MEANINGS.get(hook, ASKED).returns}" in record.getMessage()


@pytest.mark.parametrize("hook", MOMENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_results_of_def_and_of_async_def_mean_the_same(
    serve: Serve, hook: str, kind: str, no_delay: None
) -> None:
    moment = MOMENTS[hook]
    said = "550" if hook != "auth_handler" else moment.trouble
    for result, expected in ((False, moment.no), (UNKNOWN, said)):
        with asking(serve, hook, kind, lambda result=result: result) as client:  # type: ignore[misc]
            for command in moment.before:
                say(client, command)
            assert say(client, moment.command).startswith(expected)


@pytest.mark.parametrize("make", [Reject, Reply])
def test_a_rejection_with_a_text_alone_is_sent_with_the_enhanced_code_of_its_class(
    serve: Serve, make: Callable[[int, str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    def known(_peer: object, _sender: str, recipient: str) -> Any:
        if recipient == "b@example.com":
            return make(550, "No such user")
        return make(450, "Try again later")

    with serve(lambda *_: None, rcpt_handler=known).ready() as client:
        client.say(MAIL)
        assert client.say(RCPT) == "550 5.0.0 No such user"
        assert client.say("RCPT TO:<c@example.com>") == "450 4.0.0 Try again later"
    assert not [record for record in caplog.records if record.name == "ehlo.handler"]


@pytest.mark.parametrize("hook", ["on_message", "rcpt_handler"])
def test_the_log_names_the_function_of_the_user(
    serve: Serve, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    def mine(*_: object) -> Any:
        return ["what a client sent"]

    class Object:
        __call__ = mine

    functions: list[Any] = [mine, Object()]
    for function in functions:
        caplog.clear()
        if hook == "on_message":
            running = serve(function)
        else:
            running = serve(lambda *_: None, rcpt_handler=function)
        with running.ready() as client:
            for command in (MAIL, RCPT, "DATA", "."):
                client.say(command)
        (record,) = [record for record in caplog.records if record.name == "ehlo.handler"]
        option, outcome = "rcpt_handler", ""
        if hook == "on_message":
            option, outcome = "handler", " (the message was accepted)"
        name = mine.__qualname__ if function is mine else Object.__qualname__
        told = f"{option} ({__name__}.{name}) returned list{outcome}; return "
        assert told in record.getMessage()
        assert "what a client sent" not in record.getMessage()


def inner(kind: str) -> None:
    """Fail in the user's own code, in ehlo's, or in a library."""
    if kind == "own":
        raise KeyError("x")
    if kind == "ehlo":
        Reject(550, "5.1")
    json.loads("{")


def frames_of(record: logging.LogRecord) -> list[str]:
    """Return the names of the functions in a record's traceback, whose files it has, too."""
    assert record.exc_info is not None
    frames = traceback.extract_tb(record.exc_info[2])
    assert record.exc_text is not None
    shown = re.findall(r'^  File "(.+)", line \d+, in (.+)$', record.exc_text, re.MULTILINE)
    assert shown == [(frame.filename, frame.name) for frame in frames]
    return [frame.name for frame in frames if frame.filename == __file__] + [
        frame.filename for frame in frames if frame.filename != __file__
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fails", ["own", "ehlo", "library"])
@pytest.mark.parametrize("option", ["handler", "rcpt_handler", "auth_handler", "on_mail"])
def test_the_traceback_of_a_failure_has_the_frames_of_the_user_alone(
    serve: Serve, kind: str, fails: str, option: str, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object) -> None:
        inner(fails)

    async def failing_async(*_: object) -> None:
        inner(fails)

    function: Any = failing if kind == "def" else failing_async
    options: dict[str, Any] = {"auth_mechs": {"PLAIN": True}} if option == "auth_handler" else {}
    if option == "on_mail":
        handler: Any = type("Made", (Handler,), {"on_mail": function, "on_message": function})()
    else:
        options = options | {option: function}
        handler = options.pop("handler", lambda *_: None)
    with serve(handler, **options).ready() as client:
        replies = [client.say(each) for each in (plain("alice", "x"), MAIL, RCPT, "DATA", "x\r\n.")]
    assert [reply for reply in replies if reply.startswith(("451 4.3.0", "454 4.7.0"))]
    record = next(record for record in caplog.records if record.name == "ehlo.handler")
    assert f"{option} ({__name__}." in record.getMessage()
    assert record.getMessage().endswith(f"{function.__name__}) failed")
    names = [function.__name__, "inner"]
    frames = frames_of(record)
    assert frames[:2] == names
    assert not [name for name in frames[2:] if "ehlo" in Path(name).parts]
    assert len(frames) == 2 or fails == "library"


@pytest.mark.parametrize("text", ["550", "451", "550-a", "4711", "5500 x", "x 550 No", "OK"])
def test_text_that_is_no_reply_line_is_a_queue_id(serve: Serve, text: str) -> None:
    """An id of three digits is nothing unusual: `str(cursor.lastrowid)`."""
    with serve(handler_of("async def", on_message=text)).ready() as client:
        assert client.mail() == f"250 2.0.0 Ok: queued as {text}"


@pytest.mark.parametrize("text", ["A\r\n250 B", "A\0", "A\u2028B", "x" * 600])
def test_an_id_that_cannot_be_sent_is_left_out(
    serve: Serve, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(handler_of("async def", on_message=text)).ready() as client:
        assert client.mail() == "250 2.0.0 Ok: queued"
        assert client.say("NOOP") == "250 2.0.0 Ok"
    assert "returned a str that cannot be sent as a queue id; return " in caplog.text


def test_a_function_with_yield_never_runs_and_the_log_says_why(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(handler_of("async def", on_message=lambda *_: generator())).ready() as client:
        assert client.mail().startswith("451 4.3.0")
    assert "generator, which has not run (write the function without yield)" in caplog.text


class Unreadable(str):  # noqa: SLOT000  as a user writes one
    """Raises when it is looked at, as a row of a database does whose session is closed."""

    def __bool__(self) -> bool:
        raise RuntimeError("closed")


def endless() -> list[object]:
    found: list[object] = []
    found.append(found)
    return found


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("result", [lambda: Unreadable("id"), lambda: {Unreadable: Unreadable(1)}])
def test_a_message_is_accepted_once_whatever_its_result_does_when_it_is_read(
    serve: Serve, result: Callable[[], object], lmtp: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(handler_of("async def", on_message=lambda *_: result()), lmtp=lmtp).client() as it:
        it.reply()
        it.say("LHLO c" if lmtp else HELLO)
        assert it.mail() == "250 2.0.0 Ok: queued"
        assert it.mail() == "250 2.0.0 Ok: queued"
    assert "on_message (" in caplog.text


@pytest.mark.parametrize("hook", ["on_mail", "on_auth"])
def test_a_result_that_cannot_be_read_fails_closed(
    serve: Serve, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Opaque:
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError("closed")

    moment = MOMENTS[hook]
    with asking(serve, hook, "async def", Opaque) as client:
        for command in moment.before:
            say(client, command)
        assert client.say(moment.command).startswith(moment.trouble)
        assert client.say("NOOP") == "250 2.0.0 Ok"
    assert "returned what cannot be read" in caplog.text


def test_a_list_that_holds_itself_is_no_rejection(serve: Serve) -> None:
    with serve(handler_of("async def", on_message=lambda *_: endless())).ready() as client:
        assert client.mail() == "250 2.0.0 Ok: queued"


def test_each_hook_that_answers_has_a_moment_or_its_own_test() -> None:
    hooks = {row.hook for row in verbs.ASKED.values() if row.hook}
    own_tests = {"on_starttls", "on_tls", "on_secret", "mechanism", "on_replied", "on_disconnect"}
    assert hooks - own_tests <= MOMENTS.keys()
    assert MEANINGS.keys() - MOMENTS.keys() == own_tests


# -- no reply --------------------------------------------------------------------------------------


def dropping() -> object:
    raise ehlo.Disconnect


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("hook", "result"),
    [
        *((hook, dropping) for hook in MOMENTS),
        # An auth_handler returns whether the password is right, and raises anything else
        *((hook, ehlo.Disconnect) for hook in MOMENTS if hook != "auth_handler"),
    ],
)
def test_a_disconnect_closes_without_a_reply(
    serve: Serve,
    hook: str,
    result: Callable[[], object],
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    moment = MOMENTS[hook]
    with asking(serve, hook, kind, result) as client:
        for command in moment.before:
            say(client, command)
        client.send(f"{moment.command}\r\nNOOP\r\n".encode() if moment.command else b"")
        assert client.is_closed()
    name = {"rcpt_handler": "on_rcpt", "auth_handler": "on_auth"}.get(hook, hook)
    assert f"hook={name}" in caplog.text
    assert "connection dropped" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_what_was_answered_before_a_disconnect_is_still_sent(serve: Serve) -> None:
    with serve(handler_of("async def", on_rcpt=ehlo.Disconnect())).ready() as client:
        client.send(f"{MAIL}\r\n{RCPT}\r\nDATA\r\n".encode())
        assert client.rest() == b"250 2.1.0 Ok\r\n"


def test_a_message_that_is_dropped_is_not_logged_as_accepted_and_its_reply_was_not_sent(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    noted = Noted()
    running = serve(
        handler_of(
            "async def", noted, on_message=ehlo.Disconnect(), on_replied=None, on_disconnect=None
        )
    )
    with running.ready() as client:
        client.begin_message()
        assert client.replies(3)[-1].startswith("354")
        assert client.is_closed()
    running.wait_until_no_sessions()
    assert noted.names == ["on_message", "on_replied", "on_disconnect"]
    ((_, message, sent),) = noted.of("on_replied")
    assert (message.sender, sent) == ("a@example.com", False)
    assert "message accepted" not in caplog.text


@pytest.mark.parametrize("result", [dropping, lambda: {"c@example.com": ehlo.Disconnect()}])
def test_in_lmtp_a_disconnect_for_one_recipient_is_for_all(
    serve: Serve, result: Callable[[], object]
) -> None:
    handler = handler_of("async def", on_message=lambda *_: result())
    with serve(handler, lmtp=True).client() as client:
        client.reply()
        client.say("LHLO c")
        for command in (MAIL, RCPT, "RCPT TO:<c@example.com>", "DATA"):
            client.say(command)
        client.send(b"x\r\n.\r\n")
        assert client.is_closed()


def test_a_disconnect_is_nothing_that_a_hook_returns_which_is_only_told(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(handler_of("async def", on_replied=lambda *_: ehlo.Disconnect())).ready() as client:
        assert client.mail() == "250 2.0.0 Ok: queued"
        assert client.mail() == "250 2.0.0 Ok: queued"
    assert "on_replied (" in caplog.text


def test_a_login_that_is_dropped_is_not_a_failed_one(serve: Serve) -> None:
    handler = handler_of("async def", on_secret=lambda *_: dropping())
    running = serve(handler, auth_mechs={"CRAM-MD5": True}, max_auth_failures=1)
    for _ in range(3):
        with running.ready() as client, pytest.raises(EOFError):
            cram_md5(client, "alice", "wonder")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hook", ["on_replied", "on_disconnect"])
@pytest.mark.parametrize(
    ("result", "described"),
    [
        (None, ""),
        (True, ""),
        (False, ""),
        ("550 No", "str"),
        (UNKNOWN, "a Reply that does not fit, 550"),
    ],
)
def test_a_hook_that_is_only_told_returns_nothing(
    serve: Serve,
    hook: str,
    kind: str,
    result: object,
    described: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    running = serve(handler_of(kind, **{hook: lambda *_: result}))
    with running.ready() as client:
        assert client.mail() == "250 2.0.0 Ok: queued"
        assert client.mail() == "250 2.0.0 Ok: queued"
    running.wait_until_no_sessions()
    errors = [record.getMessage() for record in caplog.records if record.name == "ehlo.handler"]
    assert len(errors) == (0 if not described else 2 if hook == "on_replied" else 1)
    for line in errors:
        assert f"{hook} (" in line
        assert line.endswith(f" returned {described}; return None")


def test_false_from_on_tls_rejects_for_lack_of_security() -> None:
    noted: list[str] = []
    assert str(answer_of(MEANINGS["on_tls"], False, noted.append)).startswith("554 5.7.0 ")
    assert answer_of(MEANINGS["on_tls"], None, noted.append) is None
    assert not noted
    assert str(answer_of(MEANINGS["on_tls"], 0, noted.append)).startswith("421 4.3.0 ")
    assert noted == ["int"]


@pytest.mark.parametrize("secret", [True, 1, object(), ["x"], "\ud800"])
def test_what_is_no_secret_is_trouble_and_is_not_shown(
    serve: Serve, secret: object, caplog: pytest.LogCaptureFixture
) -> None:
    handler = handler_of("async def", on_secret=lambda *_: secret)
    with serve(handler).ready() as client:
        assert cram_md5(client, "alice", "wonder").startswith("454 4.7.0")
    (record,) = [record for record in caplog.records if record.name == "ehlo.handler"]
    assert "on_secret (" in record.getMessage()
    assert f"return {MEANINGS['on_secret'].returns}" in record.getMessage()


# -- what a handler may be -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("on_rctp", "is not a hook; did you mean on_rcpt?"),
        ("on_close", "is not a hook"),
        ("on_qqqqqqqqqq", "is not a hook; rename it, or override one of on_startup, "),
    ],
)
def test_a_method_that_is_no_hook_is_a_type_error(name: str, hint: str) -> None:
    with pytest.raises(TypeError, match=f"^Inbound.{name} {hint}".replace("?", r"\?")):
        type("Inbound", (Handler,), {name: lambda *_: None})
    type("Inbound", (Handler,), {f"_{name}": lambda *_: None, "on_disk": True})  # are no hooks


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("handle_RCPT", "override on_rcpt instead"),
        ("handle_DATA", "override on_message instead"),
        ("handle_EHLO", "override on_hello instead"),
        ("handle_NOOP", "ehlo has none for this; remove it"),
        ("handle_exception", "ehlo has none for this; remove it"),
        ("auth_PLAIN", "override on_auth instead"),
        ("ehlo_hook", "override on_hello instead"),
    ],
)
def test_a_hook_of_aiosmtpd_is_a_type_error(name: str, advice: str) -> None:
    async def hook(self: object, server: object, session: object, envelope: object) -> str:
        return "250 OK"

    with pytest.raises(TypeError, match=f"^Inbound.{name} is a hook of aiosmtpd; {advice}$"):
        type("Inbound", (Handler,), {name: hook})
    mixin = type("Old", (), {name: hook})
    with pytest.raises(TypeError, match=f"^Old.{name} is a hook of aiosmtpd"):
        type("Inbound", (mixin, Handler), {})


def test_process_message_of_smtpd_is_a_type_error_and_a_helper_of_that_name_is_none() -> None:
    def process(self: object, peer: object, mailfrom: str, rcpttos: object, data: bytes) -> None:
        raise NotImplementedError

    error = "^Inbound.process_message is a hook of smtpd; override on_message instead$"
    for method in (process, staticmethod(lambda *_, **__: None)):
        with pytest.raises(TypeError, match=error):
            type("Inbound", (Handler,), {"process_message": method})
    helpers = {
        "process_message": lambda self, session, message: None,
        "handle_bounce": lambda self, message: None,
        "auth_by_ldap": lambda self, name: None,
        "handle_RCPT": property(lambda _: 1),
    }
    type("Inbound", (Handler,), helpers)


class Wrong(Handler):
    def on_message(self, message: object) -> None: ...  # type: ignore[override]


class Keyword(Handler):
    def on_rcpt(self, session: object, *, recipient: object) -> None: ...  # type: ignore[override]
    def on_message(self, *_: object) -> None: ...


class Flexible(Handler):
    on_rcpt = max  # type: ignore[assignment]  # a builtin whose signature is unknown

    def on_message(self, session: object, message: object, extra: int = 0) -> None: ...


@pytest.mark.parametrize(
    ("handler", "options", "error"),
    [
        (
            Wrong(),
            {},
            rf"^on_message \(.*Wrong.on_message at {__file__}:\d+\) must take \(session, message\)",
        ),
        (Keyword(), {}, r"on_rcpt \(.*\) must take \(session, recipient, params\): too many"),
        (lambda *_: None, {"rcpt_handler": False}, "rcpt_handler must be a function, not False"),
        (
            lambda *_: None,
            {"rcpt_handler": lambda _rcpt: True},
            r"rcpt_handler \(.*\) must take \(remote_addr, mail_from, rcpt_to\): too many",
        ),
    ],
)
def test_what_cannot_be_called_with_its_arguments_is_a_type_error_at_the_start(
    handler: Any, options: dict[str, Any], error: str
) -> None:
    with pytest.raises(TypeError, match=error):
        ehlo.Server(handler, **options)


@pytest.mark.parametrize(
    "kind",
    [
        lambda method: method,
        staticmethod,
        classmethod,
        functools.partialmethod,
        functools.singledispatchmethod,
    ],
)
def test_a_class_that_is_mixed_in_is_looked_at_too(kind: Any) -> None:
    mixin = type("Directory", (), {"on_rctp": kind(lambda *_: None)})
    with pytest.raises(TypeError, match=r"^Directory.on_rctp is not a hook; did you mean on_rcpt"):
        type("Inbound", (mixin, Handler), {})


def test_an_attribute_of_the_instance_that_is_no_hook_is_a_type_error_at_the_start() -> None:
    handler: Any = Flexible()
    handler.on_rctp = lambda *_: None
    with pytest.raises(TypeError, match=r"^Flexible.on_rctp is not a hook; did you mean on_rcpt"):
        ehlo.Server(handler)


def test_a_method_that_a_class_gets_later_is_looked_at_at_the_start() -> None:
    class Inbound(Handler):
        def on_message(self, session: object, message: object) -> None: ...

    Inbound.on_rctp = lambda *_: None  # type: ignore[attr-defined]  # which is the mistake
    with pytest.raises(TypeError, match=r"Inbound.on_rctp is not a hook; did you mean on_rcpt"):
        ehlo.Server(Inbound())


@pytest.mark.parametrize("value", [property(lambda _: 1), functools.cached_property(lambda _: 1)])
def test_a_property_whose_name_is_like_that_of_a_hook_is_no_method(value: object) -> None:
    type("Inbound", (Handler,), {"on_duty": value})


async def waits_and_yields(_message: object) -> AsyncIterator[None]:
    yield None


def yields(_message: object) -> Iterator[None]:
    yield None


class Yields(Handler):
    def on_message(self, session: object, message: object) -> Iterator[None]:  # type: ignore[override]
        yield None


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        (waits_and_yields, "handler"),
        (yields, "handler"),
        (Yields(), "on_message"),
    ],
)
def test_a_function_with_yield_is_a_type_error_at_the_start(handler: Any, name: str) -> None:
    """A call does not run it, so that each message would be 451."""
    with pytest.raises(TypeError, match=rf"^{name} \(.*\) is a generator; write it without yield$"):
        ehlo.Server(handler)


def test_more_parameters_with_defaults_are_no_error() -> None:
    ehlo.Server(Flexible())
