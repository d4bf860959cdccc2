"""The arguments of MAIL and RCPT."""

from __future__ import annotations

from typing import Any

import pytest

from ehlo.protocol import reply as replies
from ehlo.protocol.address import NULL_PATH, Address
from ehlo.protocol.connection import Connection
from ehlo.protocol.conversation import Conversation
from ehlo.protocol.extensions import EXTENSIONS, Extension
from ehlo.protocol.parameters import ExtensionError
from ehlo.protocol.reply import Reply
from ehlo.protocol.settings import Settings
from ehlo.protocol.verbs.mail import forward_path, reverse_path


def conversation(*, tls: bool = False, **values: Any) -> Conversation:
    return Connection(Settings(**values), lambda: "nonce", tls=tls).conversation


STRICT = conversation()
LENIENT = conversation(ignore_unknown_params=True)


def sender(argument: str) -> Address | Reply:
    return reverse_path(STRICT, argument)


def recipient(argument: str, *, smtputf8: bool = False) -> Address | Reply:
    return forward_path(STRICT, argument, smtputf8=smtputf8)


@pytest.mark.parametrize(
    ("path", "local", "domain"),
    [
        ("<a@example.com>", "a", "example.com"),
        ("<A.b+c@EXAMPLE.com>", "A.b+c", "EXAMPLE.com"),
        ('<"a b"@x>', "a b", "x"),
        ('<"a\\"\\\\b\\c"@x>', 'a"\\bc', "x"),
        ('<""@x>', "", "x"),
        ('<"a@b"@x>', "a@b", "x"),
        ('<">"@x>', ">", "x"),
        ("<@r.example:a@x>", "a", "x"),
        ("<@r.example,@[192.0.2.1],@s:a@x>", "a", "x"),
        ("<a@[192.0.2.1]>", "a", "[192.0.2.1]"),
        ("<a@[IPv6:::1]>", "a", "[IPv6:::1]"),
        ("<a@1--2.a_b>", "a", "1--2.a_b"),
    ],
)
def test_a_path_is_taken_apart(path: str, local: str, domain: str) -> None:
    for found in (sender(f"FROM:{path}"), recipient(f"to: {path}")):
        assert isinstance(found, Address)
        assert (found.local, found.domain) == (local, domain)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "<a@>",
            "<@x>",
            "<a@x@y>",
            "<a..b@x>",
            "<.a@x>",
            "<a.@x>",
            "<a@.x>",
            "<a@x.>",
            "<a@x..y>",
        ),
        *("<a@-x>", "<a@x->", "<a b@x>", "<a@x y>", "<a(c)@x>", "<a,b@x>", "<a;b@x>", "<a:b@x>"),
        *("<@r:>", "<@r@s:a@x>", "<@r,s:a@x>", "<a@[1.2.3]>", "<a@[]>", "<a@[IPv6:1]>"),
        *("<a@x[1.2.3.4]>", "<a@[1.2.3.4]x>", '<"a"b@x>', '<a"b"@x>', '<"a\x00"@x>', "<a@x\x7f>"),
    ],
)
def test_what_is_no_address_is_said_to_be_none(path: str) -> None:
    assert sender(f"FROM:{path}") == replies.BAD_SENDER
    assert recipient(f"TO:{path}") == replies.BAD_RECIPIENT


@pytest.mark.parametrize(
    "rest",
    ["", "a@x", "<a@x", "a@x>", "  <a@x>", "<<a@x>", "<a@x>>", "<a@x>x", '<"a@x>', "<a\\>b@x>"],
)
def test_what_is_no_path_is_bad_syntax(rest: str) -> None:
    assert sender(f"FROM:{rest}") == replies.MAIL_SYNTAX
    assert recipient(f"TO:{rest}") == replies.RCPT_SYNTAX


def test_the_null_path_is_for_senders() -> None:
    assert sender("FROM:<>") is NULL_PATH
    found = sender("FROM:<> SIZE=5")
    assert isinstance(found, Address)
    assert found.is_null
    assert found.params == {"SIZE": 5}
    assert recipient("TO:<>") == replies.BAD_RECIPIENT


def test_postmaster_is_for_recipients() -> None:
    found = recipient("TO:<PostMaster> NOTIFY=NEVER")
    assert isinstance(found, Address)
    assert (found.local, found.domain) == ("PostMaster", "")
    assert found.params == {"NOTIFY": frozenset({"NEVER"})}
    assert sender("FROM:<postmaster>") == replies.BAD_SENDER
    assert recipient("TO:<postmaster> FOO") == replies.unknown_parameter("FOO")


def test_beyond_ascii_smtputf8_has_to_be_said() -> None:
    assert sender("FROM:<ü@x>") == replies.SENDER_NEEDS_SMTPUTF8
    assert isinstance(sender("FROM:<ü@ü.example> smtputf8"), Address)
    assert recipient("TO:<a@ü>") == replies.RECIPIENT_NEEDS_SMTPUTF8
    assert isinstance(recipient("TO:<a@ü>", smtputf8=True), Address)
    assert recipient("TO:<a@ü> ORCPT=utf-8;ü") == replies.RECIPIENT_NEEDS_SMTPUTF8


def test_without_smtputf8_the_values_of_parameters_are_ascii() -> None:
    """RFC 6533 3: utf-8-addr-unitext is for those who may speak UTF-8."""
    for path in ("<a@x>", "<postmaster>"):
        assert recipient(f"TO:{path} ORCPT=utf-8;ü@x") == replies.bad_parameter("ORCPT")
        assert isinstance(recipient(f"TO:{path} ORCPT=utf-8;\\x{{FC}}@x"), Address)
        assert isinstance(recipient(f"TO:{path} ORCPT=utf-8;ü@x", smtputf8=True), Address)
    assert recipient("TO:<a@x> FOO=ü") == replies.unknown_parameter("FOO")
    assert recipient("TO:<a@x> ü=1") == replies.BAD_PARAMETERS


def test_a_domain_has_at_most_255_bytes() -> None:
    assert isinstance(sender(f"FROM:<a@{'ü' * 127}> SMTPUTF8"), Address)
    assert sender(f"FROM:<a@{'ü' * 128}> SMTPUTF8") == replies.BAD_SENDER
    assert isinstance(recipient(f"TO:<a@{'x' * 255}>"), Address)
    assert recipient(f"TO:<a@{'x' * 256}>") == replies.BAD_RECIPIENT


def test_parameters_are_separated_by_spaces_and_by_nothing_else() -> None:
    found = sender("FROM:<a@x>   SIZE=5  BODY=7BIT ")
    assert isinstance(found, Address)
    assert found.params == {"SIZE": 5, "BODY": "7BIT"}
    assert sender("FROM:<a@x> SIZE=5\u00a0BODY=7BIT SMTPUTF8") == replies.BAD_PARAMETERS
    assert sender("FROM:<a@x> SIZE=5\tBODY=7BIT") == replies.BAD_PARAMETERS


def test_parameters_do_not_change() -> None:
    found = sender("FROM:<a@x> SIZE=5")
    assert isinstance(found, Address)
    with pytest.raises(TypeError):
        found.params["SIZE"] = 6  # type: ignore[index]  # that is the point


@pytest.mark.parametrize("word", ["=", "=x", "-x", "SIZE=", "S_Z=1", "SIZE=1=1", "ü=1", "X=\x7f"])
def test_what_is_no_parameter(word: str) -> None:
    assert sender(f"FROM:<a@x> {word}") == replies.BAD_PARAMETERS


def test_unknown_parameters_may_be_ignored_and_twice() -> None:
    assert isinstance(reverse_path(LENIENT, "FROM:<a@x> X-A X-A=1"), Address)
    assert reverse_path(LENIENT, "FROM:<a@x> REQUIRETLS") == replies.unknown_parameter("REQUIRETLS")


def test_a_parameter_stands_once() -> None:
    assert sender("FROM:<a@x> RET=FULL ret=FULL") == replies.bad_parameter("RET")


def under_tls_only(**parameters: Any) -> tuple[Extension, ...]:
    row = Extension("XROW", 0, lambda facts: facts.tls, promise=True, **parameters)
    return (*EXTENSIONS, row)


def test_a_promise_is_taken_only_where_it_is_offered_now() -> None:
    extensions = under_tls_only(mail={"XROW": str}, rcpt={"XROW": str})
    clear, secret = (conversation(tls=tls, extensions=extensions) for tls in (False, True))
    assert reverse_path(clear, "FROM:<a@x> XROW=1") == replies.unknown_parameter("XROW")
    assert forward_path(clear, "TO:<a@x> XROW=1", smtputf8=False) == replies.unknown_parameter(
        "XROW"
    )
    for found in (
        reverse_path(secret, "FROM:<a@x> XROW=1"),
        forward_path(secret, "TO:<a@x> XROW=1", smtputf8=False),
    ):
        assert isinstance(found, Address)
        assert found.params == {"XROW": "1"}


def test_only_one_of_two_rivals_is_taken() -> None:
    extensions = under_tls_only(mail={"XONE": str, "XTWO": str}, one_of=True)
    secret = conversation(tls=True, extensions=extensions)
    assert isinstance(reverse_path(secret, "FROM:<a@x> XONE=1"), Address)
    assert reverse_path(secret, "FROM:<a@x> XONE=1 XTWO=1") == replies.bad_parameter("XTWO")
    assert reverse_path(secret, "FROM:<a@x> XTWO=1 SIZE=1 XONE=1") == replies.bad_parameter("XONE")
    assert reverse_path(secret, "FROM:<a@x> XONE=1 XONE=1") == replies.bad_parameter("XONE")


def test_a_parser_that_fails_is_our_trouble() -> None:
    def failing(_value: str | None) -> None:
        raise ExtensionError

    row = Extension("XFOO", 0, mail={"XFOO": failing})
    extended = conversation(extensions=(*EXTENSIONS, row))
    assert reverse_path(extended, "FROM:<a@x> XFOO") == replies.TROUBLE
