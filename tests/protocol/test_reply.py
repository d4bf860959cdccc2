"""Replies as values and on the wire."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from ehlo.protocol import reply as replies
from ehlo.protocol.reply import ProtocolError, Reject, Reply

CATALOGUE = {name: reply for name, reply in vars(replies).items() if isinstance(reply, Reply)}


def test_one_line_on_the_wire() -> None:
    assert Reply(250, "2.1.0", "Ok").wire == b"250 2.1.0 Ok\r\n"
    assert Reply(354, None, "Go").wire == b"354 Go\r\n"
    assert Reply(250).wire == b"250 \r\n"
    assert Reply(250, "2.0.0", "grüße").wire == "250 2.0.0 grüße\r\n".encode()


def test_each_line_of_several_has_the_codes() -> None:
    reply = Reply(550, "5.1.1", "one\ntwo\nthree")
    assert reply.wire == b"550-5.1.1 one\r\n550-5.1.1 two\r\n550 5.1.1 three\r\n"
    assert reply.lines == ["one", "two", "three"]
    assert str(reply) == "550-5.1.1 one / 550-5.1.1 two / 550 5.1.1 three"


@pytest.mark.parametrize("code", [0, 99, 199, 600, 1000, -250])
def test_a_code_out_of_range_cannot_be_built(code: int) -> None:
    with pytest.raises(ValueError, match="it must be from 200 to 599; write"):
        Reply(code)


@pytest.mark.parametrize(
    ("code", "enhanced"),
    [
        *(
            (550, "4.1.1"),
            (450, "5.1.1"),
            (250, "5.0.0"),
            (250, "2"),
            (250, "2.0"),
            (250, "2.0.0 "),
        ),
        *(
            (250, "2.0.0\n"),
            (250, "2.0.0 "),
            (250, "3.0.0"),
            (250, "2.0.1000"),
            (354, "2.0.0"),
            (550, "5.1.١"),
        ),
    ],
)
def test_an_enhanced_code_that_does_not_fit_cannot_be_built(code: int, enhanced: str) -> None:
    with pytest.raises(ValueError, match=r"enhanced is .*; write \(code, enhanced, text\)"):
        Reply(code, enhanced)
    with pytest.raises(ValueError, match=r"enhanced is .*; write \(code, enhanced, text\)"):
        Reply(code, enhanced, "text")


@pytest.mark.parametrize(
    ("arguments", "reply"),
    [
        ((550, "No such user"), "550 5.0.0 No such user"),
        ((450, "Try later"), "450 4.0.0 Try later"),
        ((250, "Ok"), "250 2.0.0 Ok"),
        ((354, "Go on"), "354 Go on"),
        ((550, "5.1.1 No such user"), "550 5.1.1 No such user"),
        ((550, "5 of 7\nare known"), "550-5.0.0 5 of 7 / 550 5.0.0 are known"),
        ((550, "5.1.1 two\nlines"), "550-5.1.1 two / 550 5.1.1 lines"),
        ((550, ""), "550 5.0.0 "),
        ((550, None, "No"), "550 No"),
    ],
)
def test_a_text_may_follow_the_code(arguments: tuple[int, str], reply: str) -> None:
    assert str(Reply(*arguments)) == reply


@pytest.mark.parametrize("arguments", [(550, "4.1.1 No"), (354, "2.0.0 Go"), (550, "No", "way")])
def test_an_enhanced_code_in_front_of_a_text_has_to_fit(arguments: tuple[int, str]) -> None:
    with pytest.raises(ValueError, match="enhanced is '"):
        Reply(*arguments)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("550 No such user",), "code must be an int, not str; write"),
        ((None, "5.1.1", "No"), "code must be an int, not NoneType; write"),
        ((550, 5.1, "No"), "enhanced must be a str or None, not float; write"),
        ((550, b"5.1.1", "No"), "enhanced must be a str or None, not bytes; write"),
        ((550, "5.1.1", b"No"), "text must be a str, not bytes; write"),
    ],
)
def test_an_argument_of_another_type_is_an_error_that_says_what_each_is(
    arguments: Any, problem: str
) -> None:
    for kind in (Reply, Reject):
        with pytest.raises(TypeError, match=problem) as caught:
            kind(*arguments)
        assert '(550, "5.1.1", "No such user")' in str(caught.value)


@pytest.mark.parametrize(
    "character", ["\r", "\0", "\t", "\x1b", "\x7f", "\x85", "\u2028", "\u2029", "\x0b", "\x1c"]
)
def test_control_characters_cannot_be_said(character: str) -> None:
    with pytest.raises(ValueError, match="control characters"):
        Reply(550, "5.0.0", f"a{character}b")
    with pytest.raises(ValueError, match="control characters"):
        Reply(550, "5.0.0", f"one\ntwo{character}")


def test_a_lone_surrogate_cannot_be_said() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        Reply(550, "5.0.0", "\udc80")


def test_a_line_has_at_most_512_bytes() -> None:
    assert len(Reply(250, None, "x" * 506).wire) == 512
    with pytest.raises(ValueError, match="longer than 512"):
        Reply(250, None, "x" * 507)
    with pytest.raises(ValueError, match="longer than 512"):
        Reply(250, None, "short\n" + "ü" * 254)
    many = Reply(250, None, "\n".join(["x" * 506] * 3))
    assert max(map(len, many.wire.split(b"\r\n"))) == 510


def test_a_reply_does_not_change() -> None:
    reply = Reply(250, "2.0.0", "Ok")
    with pytest.raises(AttributeError, match="does not change"):
        reply.code = 550
    with pytest.raises(AttributeError, match="does not change"):
        del reply.text


def test_replies_are_compared_by_value() -> None:
    assert Reply(250, "2.0.0", "Ok") == replies.OK
    assert hash(Reply(250, "2.0.0", "Ok")) == hash(replies.OK)
    assert Reply(250, "2.0.0", "ok") != replies.OK
    assert replies.OK != "250 2.0.0 Ok"
    assert repr(replies.OK) == "Reply(250, '2.0.0', 'Ok')"


def test_what_a_code_means() -> None:
    assert [Reply(code).refuses for code in (250, 354, 421, 450, 550)] == [False, False] + [
        True
    ] * 3
    assert [code for code in range(200, 600) if Reply(code).closes] == [421, 521]


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_catalogue_keeps_its_rules(name: str) -> None:
    """RFC 2034 4: an enhanced code with all 2xx, 4xx and 5xx but the answers to HELO and EHLO."""
    reply = CATALOGUE[name]
    assert (reply.enhanced is None) == (
        reply.code == 354 or name in ("NO_HELO_NAME", "NO_EHLO_NAME", "NO_LHLO_NAME")
    )
    assert reply.text
    assert reply.text.isascii()


def test_the_names_of_a_server_may_be_long() -> None:
    name = "h" * 255
    assert len(replies.hello(name, "c" * 255).wire) == 512
    assert replies.hello("h", "c").wire == b"250 h greets c\r\n"
    lines = Reply(250, None, "SIZE 10\nAUTH")
    for host in ("h", "hö"):  # each by a way of its own
        made = replies.hello(host, "c", lines)
        assert made == Reply(250, None, f"{host} greets c\nSIZE 10\nAUTH")
        assert made.wire == f"250-{host} greets c\r\n250-SIZE 10\r\n250 AUTH\r\n".encode()
        assert (made.code, made.enhanced, made.refuses, made.closes) == (250, None, False, False)
    with pytest.raises(ValueError, match="control"):
        replies.hello("h", "\0", lines)


def test_limited_text_is_not_cut_inside_a_character() -> None:
    assert replies.limited("grüße", 3) == "gr"
    assert replies.limited("grüße", 4) == "grü"


def test_a_keyword_in_a_reply_is_cut() -> None:
    assert len(replies.unknown_parameter("X" * 1000).wire) < 120
    assert len(replies.bad_parameter("X" * 1000).wire) < 120


def test_a_queue_id_that_would_break_the_line_is_refused() -> None:
    assert replies.queued_as("42").text == "Ok: queued as 42"
    for queue_id in ("42", "ö", "x" * 486):  # some by a way of their own
        reply = replies.queued_as(queue_id)
        assert reply == Reply(250, "2.0.0", f"Ok: queued as {queue_id}")
        assert reply.enhanced == "2.0.0"
    for bad in ("4\r\n250 x", "4" * 600):
        with pytest.raises(ValueError, match="text has "):
            replies.queued_as(bad)


def test_a_reject_has_defaults() -> None:
    assert Reject(550).reply == Reply(550, "5.7.1", "Requested action refused")
    assert Reject(450).reply == Reply(450, "4.3.0", "Requested action not taken")
    assert Reject(550, "5.1.1").reply == Reply(550, "5.1.1", "Requested action refused")
    assert str(Reject(550, "5.1.1", "No")) == "550 5.1.1 No"


@pytest.mark.parametrize(
    ("arguments", "reply"),
    [
        ((550, "No such user"), "550 5.0.0 No such user"),
        ((450, "Try later"), "450 4.0.0 Try later"),
        ((421, "Go away"), "421 4.0.0 Go away"),
        ((550, "5.1.1 No such user"), "550 5.1.1 No such user"),
        ((550, None, "No such user"), "550 5.0.0 No such user"),
        ((550, "", "No such user"), "550 5.0.0 No such user"),
        ((550, ""), "550 5.7.1 Requested action refused"),
    ],
)
def test_a_reject_may_have_a_text_without_an_enhanced_code(
    arguments: tuple[int, str], reply: str
) -> None:
    reject = Reject(*arguments)
    assert str(reject) == reply
    assert pickle.loads(pickle.dumps(reject)).reply == reject.reply  # noqa: S301  our own


@pytest.mark.parametrize("code", [250, 354, 399, 600])
def test_a_reject_refuses(code: int) -> None:
    with pytest.raises(ValueError, match="it must be from 400 to 599; write"):
        Reject(code)


def test_a_reject_that_cannot_be_said_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="enhanced is"):
        Reject(550, "4.1.1")
    with pytest.raises(ValueError, match="control"):
        Reject(550, "5.1.1", "a\r\nb")


def test_a_reject_can_be_made_of_a_reply_and_copied() -> None:
    reject = Reject.of(Reply(551, "5.1.6", "moved"))
    assert reject.reply == Reply(551, "5.1.6", "moved")
    for same in (copy.copy(reject), pickle.loads(pickle.dumps(reject))):  # noqa: S301  our own
        assert same.reply == reject.reply
    with pytest.raises(ValueError, match="from 400 to 599"):
        Reject.of(replies.OK)


def test_their_fault_and_ours_are_different_types() -> None:
    assert not issubclass(ProtocolError, Reject)
    assert not issubclass(Reject, ProtocolError)


@pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))],  # noqa: S301  our own
)
@pytest.mark.parametrize(
    "reply", [Reply(250), Reply(250, None, "Ok"), Reply(550, "5.1.1"), Reply(550, "5.1.1", "a\nb")]
)
def test_a_reply_can_be_copied_and_pickled(again: Callable[[Reply], Reply], reply: Reply) -> None:
    other = again(reply)
    assert other == reply
    assert (other.code, other.enhanced, other.text) == (reply.code, reply.enhanced, reply.text)
