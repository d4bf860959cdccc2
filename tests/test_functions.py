"""Plain functions as handlers: the arguments they get, and what their results mean."""

from __future__ import annotations

import functools
import hmac
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ehlo
from ehlo import (
    AnonymousCredentials,
    CramMD5Credentials,
    Credentials,
    Handler,
    PasswordCredentials,
    Peer,
    Reject,
    Reply,
    TokenCredentials,
)
from ehlo.functions import callbacks_of_functions, mechanisms_of
from ehlo.handler import is_async, name_of, place_of
from ehlo.server.hooks import hooks_of
from support.hooks import KINDS
from support.logins import cram_md5, encoded, login, plain
from support.serving import Serve

kinds = pytest.mark.parametrize("kind", KINDS)
OPEN = {"PLAIN": True, "LOGIN": True}


def function(kind: str, answer: Any = None, seen: list[tuple[Any, ...]] | None = None) -> Any:
    """Return a function of this kind that records its arguments and returns or raises `answer`."""

    def act(*arguments: Any) -> Any:
        if seen is not None:
            seen.append(arguments)
        if isinstance(answer, BaseException):
            raise answer
        return answer(*arguments) if callable(answer) else answer

    async def act_async(*arguments: Any) -> Any:
        return act(*arguments)

    return act_async if kind == "async def" else act


def three(peer: Peer, username: str, password: str) -> bool:
    return True


class Called:
    def __call__(self, message: object) -> None: ...


@pytest.mark.parametrize(
    "handler", [lambda message: None, Called(), [].append, functools.partial(function("def"), 1)]
)
def test_a_hook_has_the_name_of_its_function(handler: Any) -> None:
    hook = callbacks_of_functions(handler, None, None).by_name["on_message"]
    assert hook is not handler
    assert name_of(hook) == name_of(handler)


# -- the message ---------------------------------------------------------------------------------


@kinds
def test_a_function_gets_address_sender_recipients_and_bytes(serve: Serve, kind: str) -> None:
    seen: list[tuple[Any, ...]] = []
    running = serve(function(kind, None, seen))
    with running.ready() as client:
        port = client.sock.getsockname()[1]
        recipients = ["c@example.com", "B@Example.COM", '"x y"@example.com', "b@[192.0.2.1]"]
        answer = client.mail(
            b"Subject: \xff\r\n\r\n..dot\r\nbare\nline\r\n",
            sender="a@Example.com",
            recipients=recipients,
        )
        assert answer == "250 2.0.0 Ok: queued"
    ((remote_addr, mail_from, rcpt_tos, data),) = seen
    assert remote_addr == ("127.0.0.1", port)
    assert str(remote_addr) == f"127.0.0.1:{port}"
    assert (remote_addr.host, remote_addr.port) == ("127.0.0.1", port)
    assert type(mail_from) is str
    assert mail_from == "a@Example.com"
    assert type(rcpt_tos) is list
    assert rcpt_tos == recipients
    assert all(type(recipient) is str for recipient in rcpt_tos)
    assert type(data) is bytes
    assert data.startswith(b"Received: from client.example ([127.0.0.1])\r\n\tby mx.example ")
    assert data.endswith(b"\r\nSubject: \xff\r\n\r\n.dot\r\nbare\r\nline\r\n")


@kinds
def test_the_null_sender_is_an_empty_string(serve: Serve, kind: str) -> None:
    seen: list[tuple[Any, ...]] = []
    with serve(function(kind, None, seen)).ready() as client:
        client.mail(sender="", recipients=["postmaster"])
    assert seen[0][1] == ""
    assert seen[0][2] == ["postmaster"]


def test_an_ipv6_client_prints_with_brackets(serve: Serve) -> None:
    seen: list[tuple[Any, ...]] = []
    running = serve(function("async def", None, seen), addr="[::1]:0")
    with running.ready() as client:
        client.mail()
        port = client.sock.getsockname()[1]
    assert str(seen[0][0]) == f"[::1]:{port}"
    assert seen[0][3].startswith(b"Received: from client.example ([IPv6:::1])\r\n")


def test_a_unix_client_prints_as_the_path(serve: Serve, tmp_path: Path, loop_name: str) -> None:
    seen: list[tuple[Any, ...]] = []
    path = tmp_path / "smtp"
    running = serve(function("def", None, seen), addr=f"unix:{path}", loop=loop_name)
    with running.ready() as client:
        client.mail()
    assert isinstance(seen[0][0], Peer)
    assert str(seen[0][0]) == f"unix:{path}"
    assert seen[0][3].startswith(b"Received: from client.example\r\n\tby mx.example ")


@kinds
@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (None, "250 2.0.0 Ok: queued"),
        ("4711", "250 2.0.0 Ok: queued as 4711"),
        (Reply(250, "2.6.0", "Thanks"), "250 2.6.0 Thanks"),
        (Reply(550, "5.7.1", "Spam"), "550 5.7.1 Spam"),
        (Reject(451, "4.7.1", "Try again"), "451 4.7.1 Try again"),
        (ValueError("x"), "451 4.3.0 Requested action aborted: local error in processing"),
        (False, "554 5.7.1 Transaction failed"),
        (b"id", "250 2.0.0 Ok: queued"),
        (550, "250 2.0.0 Ok: queued"),
    ],
)
def test_the_result_of_a_function_decides_the_reply(
    serve: Serve, kind: str, answer: object, reply: str
) -> None:
    with serve(function(kind, answer)).ready() as client:
        assert client.mail() == reply
        assert client.say("NOOP") == "250 2.0.0 Ok"


def test_a_def_function_that_returns_a_coroutine_does_not_accept_the_message(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async def deliver(*_: Any) -> None:
        pytest.fail("it must not be awaited")

    with serve(function("def", deliver)).ready() as client:
        assert client.mail().startswith("451 4.3.0 ")
    assert "is not awaited (await it, in an async def)" in caplog.text


def test_a_partial_or_a_callable_object_is_a_handler(serve: Serve) -> None:
    seen: list[tuple[Any, ...]] = []

    async def deliver(extra: str, *arguments: Any) -> str:
        seen.append((extra, *arguments))
        return extra

    class Callable:
        async def __call__(self, *arguments: Any) -> str:
            return await deliver("object", *arguments)

    class Sync:
        def __call__(self, *arguments: Any) -> str:
            return "sync"

    partial = functools.partial(deliver, "partial")
    for handler, queue_id in ((partial, "partial"), (Callable(), "object"), (Sync(), "sync")):
        with serve(handler).ready() as client:
            assert client.mail() == f"250 2.0.0 Ok: queued as {queue_id}"


@kinds
@pytest.mark.parametrize("keep", ["message", "session and message"])
def test_a_function_may_take_the_message_or_the_session_too(
    serve: Serve, kind: str, keep: str
) -> None:
    seen: list[tuple[Any, ...]] = []
    act = function(kind, "Q1", seen)
    forms: dict[tuple[str, str], Any] = {
        ("message", "def"): lambda message: act(message),
        ("session and message", "def"): lambda session, message: act(session, message),
    }
    if kind == "async def":

        async def one(message: Any) -> Any:
            return await act(message)

        async def two(session: Any, message: Any, verbose: bool = False) -> Any:
            return await act(session, message)

        forms |= {("message", kind): one, ("session and message", kind): two}
    with serve(forms[keep, kind]).ready() as client:
        assert client.mail(sender="a@example.com") == "250 2.0.0 Ok: queued as Q1"
    ((*session, message),) = seen
    assert [type(each) for each in session] == ([ehlo.Session] if keep != "message" else [])
    assert isinstance(message, ehlo.Message)
    assert str(message.sender) == "a@example.com"


def test_a_method_of_a_list_gets_the_message(serve: Serve) -> None:
    mails: list[ehlo.Message] = []
    with serve(mails.append).ready() as client:
        assert client.mail() == "250 2.0.0 Ok: queued"
    assert [mail.size > 0 for mail in mails] == [True]


@pytest.mark.parametrize(
    ("handler", "count"),
    [
        (lambda message: None, 1),
        (lambda message, verbose=False: None, 1),
        (lambda session, message: None, 2),
        (lambda a, b, c, d, extra=None: None, 4),
        (lambda a, b, c, d, *rest: None, 4),
        (lambda message, *rest: None, 4),
        (lambda *_, **__: None, 4),
    ],
)
def test_the_positional_parameters_without_a_default_are_counted(handler: Any, count: int) -> None:
    seen: list[int] = []

    @functools.wraps(handler)
    def note(*arguments: Any) -> None:
        seen.append(len(arguments))

    message = SimpleNamespace(recipients=[], sender="", data=b"")
    callbacks_of_functions(note, None, None).by_name["on_message"](SimpleNamespace(peer=0), message)
    assert seen == [count]


@pytest.mark.parametrize(
    ("handler", "takes"),
    [
        (three, "3 parameters"),
        (lambda a, b, c, d, e: None, "5 parameters"),
        (lambda a, b, c, d, e, *rest: None, "5 parameters"),
        (lambda *, message: None, "required keyword-only parameters"),
        (lambda *_, message: None, "required keyword-only parameters"),
    ],
)
def test_a_handler_of_another_form_is_a_type_error_that_names_it_and_shows_the_forms(
    handler: Any, takes: str
) -> None:
    with pytest.raises(TypeError) as caught:
        ehlo.Server(handler)
    line = handler.__code__.co_firstlineno
    name = f"{handler.__module__}.{handler.__qualname__}"
    assert str(caught.value) == (
        f"handler ({name} at {__file__}:{line}) takes {takes}; write (message), "
        "(session, message) or (remote_addr, mail_from, rcpt_tos, data)"
    )


@pytest.mark.parametrize("handler", [lambda: Handler(), lambda message=None: None])
def test_a_handler_without_parameters_may_be_a_factory(handler: Any) -> None:
    with pytest.raises(TypeError, match=r"takes 0 parameters; .*set factory=True \(--factory\)$"):
        ehlo.Server(handler)


class Mailbox:
    def put(self, message: ehlo.Message) -> None: ...


def test_a_method_without_its_instance_is_a_type_error() -> None:
    """It has two parameters, as a function of session and message has."""
    line = Mailbox.put.__code__.co_firstlineno
    with pytest.raises(TypeError) as caught:
        ehlo.Server(Mailbox.put)  # type: ignore[arg-type]  # which is the mistake
    assert str(caught.value) == (
        f"handler ({__name__}.Mailbox.put at {__file__}:{line}) is a method without an instance; "
        "pass a bound method"
    )
    ehlo.Server(Mailbox().put)


@pytest.mark.parametrize(
    ("handler", "advice"),
    [
        (Mailbox, "; pass an instance of it, or derive it from ehlo.Handler"),
        ("app", "; write module:attr"),
        (5, ""),
    ],
)
def test_what_is_no_handler_is_a_type_error_that_says_what_to_write(
    handler: Any, advice: str
) -> None:
    with pytest.raises(TypeError) as caught:
        ehlo.Server(handler)
    assert str(caught.value) == (
        f"handler must be a function or an ehlo.Handler, not {handler!r}{advice}"
    )


def test_the_place_of_a_function_is_that_of_what_it_wraps_or_calls() -> None:
    @functools.wraps(three)
    def wrapper(*_: Any) -> None: ...

    class Callable:
        def __call__(self) -> None: ...

    line = three.__code__.co_firstlineno
    for each in (three, wrapper, functools.partial(wrapper, 1)):
        assert place_of(each) == f"{three.__module__}.three at {__file__}:{line}"
    assert place_of(Callable()).startswith(f"{__name__}.test_the_place")
    assert place_of(Callable()).rpartition(":")[0].endswith(f".Callable at {__file__}")
    assert place_of(print) == "builtins.print"
    assert place_of([].append) == "list.append"


def test_a_function_without_others_is_one_hook() -> None:
    hooks = hooks_of(callbacks_of_functions(function("def"), None, None))
    assert list(hooks) == ["on_message"]


# -- callbacks -----------------------------------------------------------------------------------


@kinds
def test_callbacks_of_functions_have_one_hook_for_each_function(kind: str) -> None:
    act = function(kind)
    assert set(callbacks_of_functions(act, None, None).by_name) == {"on_message"}
    assert set(callbacks_of_functions(act, act, None).by_name) == {"on_message", "on_rcpt"}
    callbacks = callbacks_of_functions(act, act, act)
    assert set(callbacks.by_name) == {"on_message", "on_rcpt", "on_auth"}
    assert not callbacks.streams


@kinds
def test_hooks_are_async_if_their_functions_are(kind: str) -> None:
    act = function(kind)
    hooks = callbacks_of_functions(act, act, act).by_name.values()
    assert [is_async(hook) for hook in hooks] == [kind == "async def"] * 3


def auth_hook(seen: list[tuple[Any, ...]]) -> Any:
    """Return the hook of an auth function that records its arguments and accepts."""
    accept = function("def", True, seen)
    hook: Any = callbacks_of_functions(function("def"), None, accept).by_name["on_auth"]
    return functools.partial(hook, SimpleNamespace(peer=Peer("192.0.2.1", 25)))


@pytest.mark.parametrize(
    ("credentials", "arguments"),
    [
        (PasswordCredentials("bob", "pässword"), ("PLAIN", b"bob", "pässword".encode(), b"")),
        (PasswordCredentials("b\udcff", "\udcfe"), ("PLAIN", b"b\xff", b"\xfe", b"")),
        (PasswordCredentials("bob", "x", "bob", "LOGIN"), ("LOGIN", b"bob", b"x", b"")),
        (TokenCredentials("bob", "t"), ("XOAUTH2", b"bob", b"t", b"")),
        (CramMD5Credentials("bob", b"d", b"c"), ("CRAM-MD5", b"bob", b"d", b"c")),
    ],
)
def test_an_auth_function_gets_each_kind_of_credentials_as_bytes(
    credentials: Credentials, arguments: tuple[object, ...]
) -> None:
    seen: list[tuple[Any, ...]] = []
    identity, result = auth_hook(seen)(credentials)
    assert result is True
    assert seen == [(Peer("192.0.2.1", 25), *arguments)]
    assert identity.encode(errors="surrogateescape") == arguments[1]


@pytest.mark.parametrize(
    "credentials",
    [
        PasswordCredentials("bob", "x", "root"),
        TokenCredentials("bob", "t", "root"),
        TokenCredentials("", "t"),
    ],
)
def test_an_auth_function_is_not_called_for_a_login_that_it_cannot_decide(
    credentials: Credentials,
) -> None:
    seen: list[tuple[Any, ...]] = []
    assert auth_hook(seen)(credentials) is None
    assert seen == []


def test_an_auth_function_cannot_check_other_credentials() -> None:
    with pytest.raises(TypeError, match="AnonymousCredentials; use a Handler with on_auth"):
        auth_hook([])(AnonymousCredentials())


# -- recipients ----------------------------------------------------------------------------------


@kinds
def test_rcpt_handler_is_called_for_each_recipient(serve: Serve, kind: str) -> None:
    seen: list[tuple[Any, ...]] = []

    def known(_peer: Peer, _sender: str, recipient: str) -> bool:
        return recipient.endswith("@example.com")

    mails: list[tuple[Any, ...]] = []
    running = serve(function("def", None, mails), rcpt_handler=function(kind, known, seen))
    with running.ready() as client:
        client.say("MAIL FROM:<>")
        assert client.say("RCPT TO:<a@example.com>") == "250 2.1.5 Ok"
        assert client.say("RCPT TO:<a@example.net>") == (
            "550 5.1.1 Requested action not taken: mailbox unavailable"
        )
        assert client.say("RCPT TO:<b@example.com>") == "250 2.1.5 Ok"
        client.say("DATA")
        assert client.say("x\r\n.") == "250 2.0.0 Ok: queued"
        port = client.sock.getsockname()[1]
    assert seen == [
        (("127.0.0.1", port), "", "a@example.com"),
        (("127.0.0.1", port), "", "a@example.net"),
        (("127.0.0.1", port), "", "b@example.com"),
    ]
    assert isinstance(seen[0][0], Peer)
    assert mails[0][2] == ["a@example.com", "b@example.com"]


@kinds
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (True, "250 2.1.5"),
        (False, "550 5.1.1"),
        (None, "451 4.3.0"),
        ("550 no", "451 4.3.0"),
        ((550, "no"), "451 4.3.0"),
        (Reply(550, "5.1.1", "No"), "550 5.1.1 No"),
        (Reject(451, "4.7.1", "Greylisted"), "451 4.7.1"),
        (KeyError("x"), "451 4.3.0"),
    ],
)
def test_the_result_of_rcpt_handler_decides_the_reply(
    serve: Serve, kind: str, answer: object, code: str
) -> None:
    running = serve(function("def"), rcpt_handler=function(kind, answer))
    with running.ready() as client:
        client.say("MAIL FROM:<a@example.com>")
        assert client.say("RCPT TO:<b@example.com>").startswith(code)


def test_a_def_rcpt_handler_that_returns_a_coroutine_accepts_no_recipient(serve: Serve) -> None:
    async def known(*_: Any) -> bool:
        return True

    running = serve(function("def"), rcpt_handler=function("def", known))
    with running.ready() as client:
        client.say("MAIL FROM:<a@example.com>")
        assert client.say("RCPT TO:<b@example.com>").startswith("451 4.3.0 ")


# -- logins --------------------------------------------------------------------------------------


@kinds
def test_auth_handler_gets_user_name_and_password_as_bytes(serve: Serve, kind: str) -> None:
    seen: list[tuple[Any, ...]] = []
    running = serve(function("def"), auth_handler=function(kind, True, seen), auth_mechs=OPEN)
    with running.ready() as client:
        assert client.say("AUTH PLAIN " + encoded(b"\0al\xffice\0won\xe9der")) == (
            "235 2.7.0 Authentication successful"
        )
        port = client.sock.getsockname()[1]
    with running.ready() as client:
        assert login(client, "älice", "wönder").startswith("235")
    assert seen[0] == (("127.0.0.1", port), "PLAIN", b"al\xffice", b"won\xe9der", b"")
    assert seen[1][1:] == ("LOGIN", "älice".encode(), "wönder".encode(), b"")
    assert isinstance(seen[0][0], Peer)
    assert all(type(value) is bytes for value in seen[0][2:])


@kinds
def test_auth_handler_gets_the_digest_and_the_challenge_of_cram_md5(
    serve: Serve, kind: str
) -> None:
    seen: list[tuple[Any, ...]] = []

    def check(_peer: Peer, _name: str, username: bytes, password: bytes, shared: bytes) -> bool:
        return username == b"alice" and ehlo.cram_md5_matches("wonder", shared, password)

    running = serve(function("def"), auth_handler=function(kind, check, seen))
    with running.ready() as client:
        assert cram_md5(client, "alice", "wonder") == "235 2.7.0 Authentication successful"
    with running.ready() as client:
        assert cram_md5(client, "alice", "wander") == (
            "535 5.7.8 Authentication credentials invalid"
        )
    (_, mechanism, username, digest, challenge), other = seen
    assert mechanism == "CRAM-MD5"
    assert username == b"alice"
    assert len(bytes.fromhex(digest.decode())) == 16
    assert challenge.startswith(b"<")
    assert challenge.endswith(b"@mx.example>")
    assert challenge != other[4]


@kinds
@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (True, "235 2.7.0"),
        (False, "535 5.7.8"),
        (None, "535 5.7.8"),
        (1, "454 4.7.0"),
        ("alice", "454 4.7.0"),
        ("", "454 4.7.0"),
        (0, "454 4.7.0"),
        ([True], "454 4.7.0"),
        (Reply(235, "2.7.0", "Yes"), "454 4.7.0"),
        (RuntimeError("the secret is wonder"), "454 4.7.0"),
        (Reject(432, "4.7.12", "Change your password"), "432 4.7.12"),
    ],
)
def test_only_true_accepts_a_login(
    serve: Serve, kind: str, answer: object, reply: str, no_delay: None
) -> None:
    running = serve(function("def"), auth_handler=function(kind, answer), auth_mechs=OPEN)
    with running.ready() as client:
        assert client.say(plain("alice", "wonder")).startswith(reply)
        # A second login is out of sequence (503) only after a successful one
        again = client.say("AUTH PLAIN =")
        assert again.startswith("503" if answer is True else "501")


def test_a_def_auth_handler_that_returns_a_coroutine_accepts_no_login(serve: Serve) -> None:
    async def check(*_: Any) -> bool:
        return True

    running = serve(
        function("def"),
        auth_handler=function("def", check),
        auth_mechs=OPEN,
        auth_required=True,
    )
    with running.ready() as client:
        assert client.say(plain("alice", "wonder")).startswith("454 4.7.0 ")
        assert client.say("MAIL FROM:<a@example.com>").startswith("530 5.7.0 ")


@pytest.mark.parametrize("parameters", [2, 5])
def test_a_wrong_result_of_auth_handler_names_the_function(
    serve: Serve, parameters: int, caplog: pytest.LogCaptureFixture
) -> None:
    def two(_username: str, _password: str) -> Any:
        return 1

    def five(
        _peer: Any, _mechanism: str, _username: bytes, _password: bytes, _shared: bytes
    ) -> Any:
        return 1

    check = two if parameters == 2 else five
    with serve(function("def"), auth_handler=check, auth_mechs=OPEN).ready() as client:
        assert client.say(plain("alice", "wonder")).startswith("454 4.7.0 ")
    assert f"auth_handler ({__name__}.{check.__qualname__}) returned int; return " in caplog.text


def test_a_login_as_another_user_does_not_call_auth_handler(serve: Serve, no_delay: None) -> None:
    seen: list[tuple[Any, ...]] = []
    running = serve(function("def"), auth_handler=function("def", True, seen), auth_mechs=OPEN)
    with running.ready() as client:
        assert client.say(plain("alice", "wonder", authzid="root")).startswith("535 5.7.8 ")
        assert seen == []
        assert client.say(plain("alice", "wonder", authzid="alice")).startswith("235 ")


# -- an auth_handler of two parameters ------------------------------------------------------------


@kinds
@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (True, "235 2.7.0"),
        (False, "535 5.7.8"),
        (None, "535 5.7.8"),
        (1, "454 4.7.0"),
        ("alice", "454 4.7.0"),
        (Reply(235, "2.7.0", "Yes"), "454 4.7.0"),
        (RuntimeError("the secret is wonder"), "454 4.7.0"),
        (Reject(432, "4.7.12", "Change your password"), "432 4.7.12"),
    ],
)
def test_a_function_of_two_parameters_gets_user_name_and_password(
    serve: Serve, no_delay: None, kind: str, answer: object, reply: str
) -> None:
    seen: list[tuple[Any, ...]] = []
    act = function(kind, answer, seen)

    def check(username: str, password: str) -> Any:
        return act(username, password)

    async def check_async(username: str, password: str) -> Any:
        return await act(username, password)

    handler = check_async if kind == "async def" else check
    running = serve(function("def"), auth_handler=handler, auth_mechs=OPEN)
    with running.client() as client:
        assert "250 AUTH LOGIN PLAIN" in client.hello().replace("-", " ")
        assert client.say(plain("älice", "wönder")).startswith(reply)
    with running.ready() as client:
        assert login(client, "älice", "wönder").startswith(reply)
    assert seen == [("älice", "wönder")] * 2


@pytest.mark.parametrize("bad", [b"\0al\xffice\0wonder", b"\0alice\0won\xffder"])
def test_bytes_that_are_not_utf_8_are_535_without_a_call(
    serve: Serve, no_delay: None, bad: bytes
) -> None:
    def check(username: str, password: str) -> bool:
        pytest.fail("it was called")

    running = serve(function("def"), auth_handler=check, auth_mechs=OPEN)
    with running.ready() as client:
        assert client.say("AUTH PLAIN " + encoded(bad)).startswith("535 5.7.8 ")


def test_a_login_as_another_user_does_not_call_a_function_of_two_parameters(
    serve: Serve, no_delay: None
) -> None:
    seen: list[str] = []

    def check(username: str, password: str) -> bool:
        seen.append(username)
        return True

    running = serve(function("def"), auth_handler=check, auth_mechs=OPEN)
    with running.ready() as client:
        assert client.say(plain("alice", "wonder", authzid="root")).startswith("535 5.7.8 ")
        assert seen == []
        assert client.say(plain("alice", "wonder", authzid="alice")).startswith("235 ")
    assert seen == ["alice"]


def test_a_def_function_of_two_parameters_that_returns_a_coroutine_accepts_no_login(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async def check_async(username: str, password: str) -> bool:
        return True

    def check(username: str, password: str) -> Any:
        return check_async(username, password)

    running = serve(function("def"), auth_handler=check, auth_mechs=OPEN)
    with running.ready() as client:
        assert client.say(plain("alice", "wonder")).startswith("454 4.7.0 ")
    assert "await it, in an async def" in caplog.text


def two(username: str, password: str) -> bool:
    return True


def two_and_a_default(username: str, password: str, realm: str = "") -> bool:
    return True


def with_keyword(username: str, password: str, *, realm: str) -> bool:
    return True


class Directory:
    """Has methods to check logins."""

    def two(self, username: str, password: str) -> bool:
        return True

    def __call__(self, username: str, password: str) -> bool:
        return True

    def five(self, a: object, b: object, c: object, d: object, e: object) -> bool:
        return True


PASSWORDS = {"PLAIN", "LOGIN"}
ALL = {*PASSWORDS, "CRAM-MD5", "XOAUTH2", "OAUTHBEARER"}


@pytest.mark.parametrize(
    ("auth_handler", "mechanisms"),
    [
        (two, PASSWORDS),
        (two_and_a_default, PASSWORDS),
        (Directory().two, PASSWORDS),
        (Directory(), PASSWORDS),
        (functools.partial(three, Peer("192.0.2.1", 25)), PASSWORDS),
        (hmac.compare_digest, PASSWORDS),
        (Directory().five, ALL),
        (lambda *_: True, ALL),
        (lambda *_, **__: True, ALL),
        (max, ALL),  # its signature cannot be read
    ],
)
def test_the_number_of_parameters_is_the_form(auth_handler: Any, mechanisms: set[str]) -> None:
    assert mechanisms_of(auth_handler) == mechanisms


@pytest.mark.parametrize(
    ("auth_handler", "takes"),
    [
        (three, "3 parameters"),
        (lambda: True, "0 parameters"),
        (with_keyword, "required keyword-only parameters"),
        (lambda a, b, c, d, e, f: True, "6 parameters"),
    ],
)
def test_an_auth_handler_of_another_form_is_a_type_error_that_shows_both(
    auth_handler: Any, takes: str
) -> None:
    with pytest.raises(TypeError, match=f"auth_handler .*takes {takes}; write ") as caught:
        ehlo.Server(function("def"), auth_handler=auth_handler)
    for form in ("(username, password)", "(remote_addr, mechanism, username, password, shared)"):
        assert form in str(caught.value)


def test_an_auth_handler_that_is_a_method_of_no_instance_is_a_type_error() -> None:
    method: Any = Directory.two
    with pytest.raises(TypeError, match=r"auth_handler .* is a method without an instance; pass a"):
        ehlo.Server(function("def"), auth_handler=method)


# -- listen_and_serve ----------------------------------------------------------------------------


@pytest.mark.parametrize("addr", ["127.0.0.1:x", "127.0.0.1", "::1:25", "unix:", ":99999"])
def test_a_bad_address_raises_value_error(addr: str) -> None:
    with pytest.raises(ValueError, match="unix:"):
        ehlo.listen_and_serve(addr, function("def"))


def test_a_busy_port_raises_os_error_with_address_and_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        addr = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=f"cannot listen on {addr}: Address already in use"):
            ehlo.listen_and_serve(addr, function("def"))


def test_listen_and_serve_tls_raises_file_not_found_for_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ehlo.listen_and_serve_tls(
            "127.0.0.1:0", str(tmp_path / "a"), str(tmp_path / "b"), function("def")
        )


def test_message_before_session_is_a_type_error() -> None:
    def handler(message: object, session: object) -> None: ...

    with pytest.raises(
        TypeError,
        match=r"^handler \(.*handler.*\) takes message first; write \(session, message\)$",
    ):
        ehlo.Server(handler)


class Stray:
    def on_message(self, session: object, message: object) -> None: ...


@pytest.mark.parametrize(
    ("handler", "advice"),
    [
        ([], "pass its method append to collect messages"),
        (Stray(), "derive Stray from ehlo.Handler"),
    ],
)
def test_what_is_nearly_a_handler_is_a_type_error_with_advice(handler: Any, advice: str) -> None:
    with pytest.raises(TypeError, match=rf"; {advice}$"):
        ehlo.Server(handler)
