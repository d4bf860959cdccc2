"""Failures in a log: an exception's text, which may be a client's, forges no line of it."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any

import pytest

import ehlo
from ehlo import Handler, Message, Session
from ehlo.server.observing.failures import keep_users_frames, log_failure, traceback_of
from ehlo.server.observing.journal import about
from support.serving import Serve

FORGED = "2026-11-28 00:00:00 INFO    message accepted queue_id=forged"
TEXT = f"x\n{FORGED}\r\n{FORGED}\x1b[31m\u202e\u2028\x00\x9b"


def caught(raise_it: Callable[[], object]) -> BaseException:
    try:
        raise_it()
    except BaseException as error:  # noqa: BLE001  returned
        return error
    pytest.fail("it raised nothing")


def fail(error: BaseException) -> Callable[[], object]:
    def raise_it() -> object:
        raise error

    return raise_it


def assert_forges_nothing(text: str) -> None:
    """Check that no line begins as one of the log would, and that a terminal obeys nothing."""
    for line in text.splitlines():
        assert not line.startswith("2026"), text
        assert line.isprintable(), text


def a_group() -> ExceptionGroup[Exception]:
    cause = caught(with_a_cause)
    assert isinstance(cause, Exception)
    return ExceptionGroup(TEXT, [ValueError(TEXT), cause])


def with_a_cause() -> None:
    try:
        raise KeyError(TEXT)
    except KeyError as error:
        raise ValueError(TEXT) from error


def with_a_context() -> None:
    try:
        raise KeyError(TEXT)
    except KeyError:
        raise ValueError(TEXT)  # noqa: B904  that is the test


def with_notes() -> None:
    error = ValueError(TEXT)
    error.add_note(TEXT)
    error.add_note(TEXT)
    raise error


def no_syntax() -> None:
    compile(f"a {TEXT!r}\n", TEXT.replace("\0", ""), "exec")


def no_tree() -> None:
    compile(f"'{TEXT}'".replace("\0", ""), "x", "exec")


@pytest.mark.parametrize(
    "raise_it",
    [
        fail(ValueError(TEXT)),
        fail(OSError(2, TEXT)),
        fail(a_group()),
        fail(BaseExceptionGroup("outer", [a_group()])),
        with_a_cause,
        with_a_context,
        with_notes,
        no_syntax,
        no_tree,
        fail(UnicodeDecodeError("utf-8", TEXT.encode(), 0, 1, TEXT)),
    ],
)
def test_no_line_is_forged(raise_it: Callable[[], object]) -> None:
    error = caught(raise_it)
    text = traceback_of(error)
    assert_forges_nothing(text)
    assert "Traceback (most recent call last):" in text
    assert type(error).__name__ in text
    assert not text.endswith("\n")


def test_a_usual_traceback_is_what_python_prints() -> None:
    def divide() -> None:
        _ = 1 / 0

    lines = traceback_of(caught(divide)).splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert "    _ = 1 / 0" in lines
    assert lines[lines.index("    _ = 1 / 0") - 1].endswith(", in divide")


def test_the_length_is_bounded() -> None:
    text = traceback_of(caught(fail(ValueError("x" * 1_000_000))))
    assert len(text) < 6000
    assert text.endswith("more characters)")
    assert len(traceback_of(ExceptionGroup("g", [ValueError("x" * 9999)] * 15))) <= 65_536


def test_a_failure_is_logged_as_an_error_with_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    error = caught(fail(ValueError(TEXT)))
    log = logging.getLogger("ehlo.test")
    log_failure(log, error, "%s failed", "it", extra={"event": "x"})
    log_failure(about(log, "abc"), error, "%s failed", "it")
    first, second = caplog.records
    assert (first.getMessage(), first.levelname) == ("it failed", "ERROR")
    assert (first.filename, first.funcName) == (
        "test_failures.py",
        "test_a_failure_is_logged_as_an_error_with_its_fields",
    )
    assert first.__dict__["event"] == "x"
    assert first.exc_info is not None
    assert first.exc_info[1] is error
    assert second.getMessage() == "session abc: it failed"
    assert second.__dict__["session"] == "abc"
    assert FORGED in caplog.text
    assert "\n2026" not in caplog.text


def test_a_level_that_is_off_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "ehlo.test")
    log_failure(logging.getLogger("ehlo.test"), ValueError(), "it failed")
    assert caplog.records == []


# -- a client that tries -------------------------------------------------------------------------


class Careless(Handler):
    """Quotes its client in exceptions."""

    async def on_message(self, session: Session, message: Message) -> None:
        raise ValueError(message.body.decode())

    def on_data(self, session: Session) -> None:
        if session.helo == "data":
            raise ValueError(TEXT)


def test_a_body_in_an_exception_forges_no_line(
    serve: Serve, loop_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever writes the log: this one is formatted by the standard library."""
    with serve(Careless(), loop=loop_name).client() as client:
        client.reply()
        client.say("HELO c")
        assert client.mail(body=f"{FORGED}\r\n".encode()).startswith("451")
        client.say("HELO data")
        client.say("MAIL FROM:<a@example.com>")
        client.say("RCPT TO:<a@example.com>")
        assert client.say("DATA").startswith("451")
    assert caplog.text.count(FORGED) == 3
    assert "\n2026" not in caplog.text


def test_callbacks_that_fail_forge_no_line(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError(TEXT)

    async def message(*_: object) -> None: ...

    running = serve(
        message,
        log_write=fails,
        own_extensions=[ehlo.Extension("XFOO", 0, mail={"XLEN": fails})],
    )
    with running.ready() as client:
        assert client.say("MAIL FROM:<a@example.com> XLEN=1").startswith("451")
    assert "the parser of XLEN failed" in caplog.text
    assert FORGED in caplog.text
    assert "\n2026" not in caplog.text


# -- the frames of the user's code ---------------------------------------------------------------


def failed_in(*packages: str) -> BaseException:
    """Return an exception that was raised through functions of modules of these packages."""
    run = fail(ValueError("a bug"))
    for package in reversed(packages):
        names: dict[str, Any] = {"__name__": f"{package}.module", "run": run}
        exec("def call():\n    run()\n", names)  # noqa: S102  a function of a module of that name
        run = names["call"]
    error = caught(run)
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next  # without `caught`, which is the test's
    return error


def packages_of(error: BaseException | None) -> list[str]:
    frames = traceback.walk_tb(None if error is None else error.__traceback__)
    names = [str(frame.f_globals["__name__"]) for frame, _ in frames]
    return [name.partition(".")[0] for name in names if name != __name__]


def test_what_calls_the_users_code_is_left_out_of_a_traceback() -> None:
    error = failed_in("ehlo", "click", "importlib", "app", "ehlo", "helper")
    error.__cause__ = failed_in("asyncio", "ehlo", "app")
    error.__cause__.__context__ = error  # a circle ends
    both = BaseExceptionGroup("both", [failed_in("ehlo", "app", "asyncio", "ehlo")])
    error.__context__ = both
    keep_users_frames(error)
    assert packages_of(error) == ["app", "helper"]
    assert packages_of(error.__cause__) == ["app"]
    assert packages_of(both.exceptions[0]) == ["app", "asyncio"]


def test_a_syntax_error_has_no_frame_of_the_users() -> None:
    error = caught(lambda: compile("def handler(*args)", "/srv/app.py", "exec"))
    error.__traceback__ = failed_in("ehlo").__traceback__
    while error.__traceback__ is not None and error.__traceback__.tb_next is not None:
        error.__traceback__.tb_next = None  # the frame of the test that failed
    keep_users_frames(error)
    assert traceback_of(error).startswith('  File "/srv/app.py", line 1')


def test_a_failure_without_code_of_the_users_keeps_its_traceback() -> None:
    error = failed_in("ehlo", "click")
    assert error.__traceback__ is not None
    assert error.__traceback__.tb_next is not None
    error.__traceback__.tb_next.tb_next = None  # as above
    keep_users_frames(error)
    assert packages_of(error) == ["ehlo", "click"]
