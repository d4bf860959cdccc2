"""The built-in mechanisms, and their exchanges in base64."""

from __future__ import annotations

import base64
import gc
import weakref
from dataclasses import dataclass
from typing import Any

import pytest

from ehlo.protocol import reply as replies
from ehlo.protocol.auth.credentials import (
    AnonymousCredentials,
    CertificateCredentials,
    CramMD5Credentials,
    Credentials,
    PasswordCredentials,
    ProvedCredentials,
    TokenCredentials,
    as_bytes,
    claimed_name,
    cram_md5_matches,
)
from ehlo.protocol.auth.keys import ScramKeys
from ehlo.protocol.auth.mechanism import (
    AsyncSteps,
    AuthContext,
    Exchange,
    Mechanism,
    MechanismError,
    SecretWanted,
    Step,
    StepAwaited,
    Steps,
    checked_secret,
    decoded,
    steps_of,
)
from ehlo.protocol.auth.mechanisms import MECHANISMS

CONTEXT = AuthContext(nonce=lambda: "1896.697170952", hostname="postoffice.reston.mci.net")
CHALLENGE = b"<1896.697170952@postoffice.reston.mci.net>"
DIGEST = b"b913a602c7eda7a495b4e6e7334d3890"  # RFC 2195 2


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def begun(
    mechanism: Mechanism, initial: bytes | None, *answers: bytes, context: AuthContext = CONTEXT
) -> tuple[Exchange, Step]:
    """Return an exchange after these responses, and the step that followed the last one."""
    exchange = Exchange(mechanism, initial, context, lambda _error: None)
    step = exchange.start()
    for answer in answers:
        assert isinstance(step, bytes)
        step = exchange.respond(encoded(answer))
    return exchange, step


def run(name: str, initial: bytes | None, *answers: bytes) -> Step:
    return begun(MECHANISMS[name], initial, *answers)[1]


def test_cram_md5_reads_the_example_of_rfc_2195() -> None:
    step = run("CRAM-MD5", None, b"tim " + DIGEST)
    assert step == CramMD5Credentials("tim", DIGEST, CHALLENGE)
    assert isinstance(step, CramMD5Credentials)
    assert step.matches("tanstaaftanstaaf")
    assert step.matches(b"tanstaaftanstaaf")
    assert not step.matches("tanstaaf")
    assert not step.matches("")


def test_cram_md5_sends_its_challenge_in_base64() -> None:
    assert run("CRAM-MD5", None) == b"334 " + base64.b64encode(CHALLENGE) + b"\r\n"


def test_cram_md5_accepts_a_digest_in_any_case_and_a_name_with_spaces() -> None:
    step = run("CRAM-MD5", None, b"tim the great " + DIGEST.upper())
    assert isinstance(step, CramMD5Credentials)
    assert step.username == "tim the great"
    assert cram_md5_matches("tanstaaftanstaaf", CHALLENGE, step.digest)


@pytest.mark.parametrize(
    "response", [b"", b"tim", DIGEST, b" " + DIGEST, b"tim " + DIGEST[:-1], b"tim " + DIGEST + b"0"]
)
def test_cram_md5_rejects_a_response_that_is_not_a_name_and_a_digest(response: bytes) -> None:
    assert run("CRAM-MD5", None, response) == replies.BAD_RESPONSE


def test_plain_works_with_and_without_an_initial_response() -> None:
    wanted = PasswordCredentials("tim", "tanstaaf")
    assert run("PLAIN", b"\0tim\0tanstaaf") == wanted
    assert run("PLAIN", None) == b"334 \r\n"
    assert run("PLAIN", None, b"\0tim\0tanstaaf") == wanted
    assert run("PLAIN", b"ann\0tim\0") == PasswordCredentials("tim", "", "ann")


@pytest.mark.parametrize("response", [b"", b"tim", b"\0tim", b"\0\0x", b"a\0b\0c\0d", b"\0\0"])
def test_plain_rejects_a_malformed_message(response: bytes) -> None:
    assert run("PLAIN", response) == replies.BAD_RESPONSE


def test_login_asks_for_the_name_and_the_password() -> None:
    wanted = PasswordCredentials("tim", "tanstaaf", mechanism="LOGIN")
    assert run("LOGIN", None) == b"334 VXNlcm5hbWU6\r\n"
    assert run("LOGIN", None, b"tim") == b"334 UGFzc3dvcmQ6\r\n"
    assert run("LOGIN", None, b"tim", b"tanstaaf") == wanted
    assert run("LOGIN", b"tim", b"tanstaaf") == wanted


@pytest.mark.parametrize(
    ("name", "password"), [(b"", b"x"), (b"a\0b", b"x"), (b"a", b"x\0"), (b"\0", b"")]
)
def test_login_rejects_an_empty_name_and_nul(name: bytes, password: bytes) -> None:
    assert run("LOGIN", None, name, password) == replies.BAD_RESPONSE


def test_bytes_that_are_not_utf8_are_kept() -> None:
    step = run("PLAIN", b"\0t\xfcm\0\xff")
    assert isinstance(step, PasswordCredentials)
    assert step.username.encode(errors="surrogateescape") == b"t\xfcm"
    assert step.password.encode(errors="surrogateescape") == b"\xff"


def test_a_star_cancels_the_exchange() -> None:
    exchange = Exchange(MECHANISMS["LOGIN"], None, CONTEXT, lambda _error: None)
    exchange.start()
    assert exchange.respond("*") == replies.AUTH_CANCELLED


@pytest.mark.parametrize(
    "text", ["=", "a", "ab", "abc", "ab=", "a===", "ab==cd==", "a b=", "ü=", "-_=="]
)
def test_bad_base64_ends_the_exchange(text: str) -> None:
    assert decoded(text) is None
    exchange = Exchange(MECHANISMS["LOGIN"], None, CONTEXT, lambda _error: None)
    exchange.start()
    assert exchange.respond(text) == replies.BAD_BASE64


def test_good_base64_is_decoded() -> None:
    assert decoded("") == b""
    assert decoded("YQ==") == b"a"
    assert decoded("YWI=") == b"ab"
    assert decoded("YWJj") == b"abc"


@pytest.mark.parametrize(
    "credentials",
    [
        PasswordCredentials("tim", "tanstaaf"),
        CramMD5Credentials("tim", b"tanstaaf", b"1896"),
        TokenCredentials("tim", "tanstaaf"),
    ],
)
def test_the_repr_of_credentials_shows_no_secret(credentials: Credentials) -> None:
    assert "tim" in repr(credentials)
    assert "tanstaaf" not in repr(credentials)
    assert "1896" not in repr(credentials)


class Plain(Credentials):
    """Is of a user's mechanism, without a thought of dataclasses."""

    def __init__(self, code: str) -> None:
        self.code = code


@dataclass
class Changeable(Credentials):
    code: str


@dataclass(frozen=True, slots=True)
class Frozen(Credentials):
    code: str


class Named(PasswordCredentials):
    def __init__(self, code: str) -> None:
        super().__init__("tim", "tanstaaf")
        self.code = code


class Tokens(TokenCredentials):
    def __init__(self, code: str) -> None:
        super().__init__("tim", "tanstaaf")
        object.__setattr__(self, "code", code)


@pytest.mark.parametrize("kind", [Plain, Changeable, Frozen, Named, Tokens])
def test_credentials_of_your_own_may_be_of_any_kind(kind: Any) -> None:
    def run(initial: bytes | None, _context: AuthContext) -> Steps:
        yield kind((initial or b"").decode())

    _, step = begun(Mechanism("X-OWN", run), b"4711")
    assert isinstance(step, kind)
    assert step.code == "4711"
    assert "tanstaaf" not in repr(step)
    assert claimed_name(step) == getattr(step, "username", None)


def test_the_repr_of_a_context_shows_no_key() -> None:
    context = AuthContext(lambda: "", "mx", bindings={"tls-unique": b"xyzzy"}, salt_key=b"plugh")
    assert "xyzzy" not in repr(context)
    assert "plugh" not in repr(context)


def test_mechanisms_that_reveal_a_secret_need_tls() -> None:
    open_ones = {row.name for row in MECHANISMS.values() if not row.needs_tls}
    assert open_ones == {"SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "ANONYMOUS"}


def test_the_strongest_mechanism_is_offered_first() -> None:
    assert list(MECHANISMS) == [
        *("SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "EXTERNAL", "SCRAM-SHA-256", "SCRAM-SHA-1"),
        *("OAUTHBEARER", "XOAUTH2", "CRAM-MD5", "LOGIN", "PLAIN", "ANONYMOUS"),
    ]


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_mechanism_is_usable_if_the_connection_has_all_that_it_needs(name: str) -> None:
    row = MECHANISMS[name]
    for tls in (False, True):
        for binding in (False, True):
            for certificate in (False, True):
                enough = (
                    (tls or not row.needs_tls)
                    and (binding or not name.endswith("-PLUS"))
                    and (certificate or name != "EXTERNAL")
                )
                usable = row.usable(tls=tls, binding=binding, certificate=certificate)
                assert usable is enough


# -- tokens --------------------------------------------------------------------------------------

XOAUTH2 = b"user=tim@example.com\x01auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01"
TOKEN = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
# RFC 7628 4.1
OAUTHBEARER = (
    b"n,a=user@example.com,\x01host=server.example.com\x01port=143\x01"
    b"auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01"
)


def test_xoauth2_has_a_name_and_a_token() -> None:
    wanted = TokenCredentials("tim@example.com", TOKEN)
    assert run("XOAUTH2", XOAUTH2) == wanted
    assert run("XOAUTH2", None) == b"334 \r\n"
    assert run("XOAUTH2", None, XOAUTH2) == wanted


def test_oauthbearer_reads_the_example_of_rfc_7628() -> None:
    user = "user@example.com"
    wanted = TokenCredentials(user, TOKEN, user, "OAUTHBEARER", "server.example.com", 143)
    assert run("OAUTHBEARER", OAUTHBEARER) == wanted
    assert run("OAUTHBEARER", None) == b"334 \r\n"
    assert run("OAUTHBEARER", None, OAUTHBEARER) == wanted


def test_oauthbearer_needs_only_a_token() -> None:
    wanted = TokenCredentials("", "t", mechanism="OAUTHBEARER")
    assert run("OAUTHBEARER", b"n,,\x01auth=Bearer t\x01\x01") == wanted
    assert run("OAUTHBEARER", b"y,,\x01auth=bearer  t\x01x=\x01\x01") == wanted


def test_oauthbearer_unescapes_the_name() -> None:
    step = run("OAUTHBEARER", b"n,a=t=2Ci=3Dm,\x01auth=Bearer t\x01\x01")
    assert isinstance(step, TokenCredentials)
    assert step.username == step.authzid == "t,i=m"


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"user=tim\x01auth=Bearer t\x01",
        b"user=tim\x01auth=Bearer t\x01\x01\x01",
        b"user=\x01auth=Bearer t\x01\x01",
        b"user=tim\x01auth=Bearer \x01\x01",
        b"user=tim\x01auth=Bearer a b\x01\x01",
        b"user=tim\x01auth=Bearer \xc3\xbc\x01\x01",
        b"user=tim\x01auth=Basic t\x01\x01",
        b"user=t\rim\x01auth=Bearer t\x01\x01",
        b"user=t\xffm\x01auth=Bearer t\x01\x01",
        b"auth=Bearer t\x01user=tim\x01\x01",
    ],
)
def test_xoauth2_rejects_a_malformed_response(response: bytes) -> None:
    assert run("XOAUTH2", response) == replies.BAD_RESPONSE


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"\x01",
        b"n,,",
        b"n,,\x01",
        b"n,\x01auth=Bearer t\x01\x01",
        b"n,tim,\x01auth=Bearer t\x01\x01",
        b"n,a=,\x01auth=Bearer t\x01\x01",
        b"n,a=t=im,\x01auth=Bearer t\x01\x01",
        b"p=tls-unique,,\x01auth=Bearer t\x01\x01",
        b"n,,\x01auth=Bearer t\x01",
        b"n,,\x01auth=Bearer t\x01\x01x",
        b"n,,\x01auth=Basic t\x01\x01",
        b"n,,\x01auth=Bearer t\x01auth=Bearer u\x01\x01",
        b"n,,\x01port=x\x01auth=Bearer t\x01\x01",
        b"n,,\x01port=65536\x01auth=Bearer t\x01\x01",
        b"n,,\x01au1h=Bearer t\x01\x01",
        b"n,,\x01auth=Bearer \xff\x01\x01",
    ],
)
def test_oauthbearer_rejects_a_malformed_response(response: bytes) -> None:
    assert run("OAUTHBEARER", response) == replies.BAD_RESPONSE


@pytest.mark.parametrize(
    ("name", "response", "status"),
    [
        ("XOAUTH2", XOAUTH2, b'"status":"401"'),
        ("OAUTHBEARER", OAUTHBEARER, b'"status":"invalid_token"'),
        ("OAUTHBEARER", b"n,,\x01\x01", b'"status":"invalid_token"'),
    ],
)
@pytest.mark.parametrize("dummy", [b"\x01", b"", b"whatever"])
def test_a_wrong_token_gets_an_error_challenge_before_the_rejection(
    name: str, response: bytes, status: bytes, dummy: bytes
) -> None:
    exchange, step = begun(MECHANISMS[name], response)
    assert isinstance(step, Credentials)
    challenge = exchange.decide(replies.BAD_CREDENTIALS)
    assert isinstance(challenge, bytes)
    error = base64.b64decode(challenge.removeprefix(b"334 "))
    assert error.startswith(b"{" + status)
    assert exchange.respond(encoded(dummy)) == replies.BAD_CREDENTIALS


@pytest.mark.parametrize(
    ("line", "said"), [("*", replies.AUTH_CANCELLED), ("a", replies.BAD_BASE64)]
)
def test_the_response_to_an_error_challenge_may_be_bad(line: str, said: replies.Reply) -> None:
    exchange, _ = begun(MECHANISMS["XOAUTH2"], XOAUTH2)
    exchange.decide(replies.BAD_CREDENTIALS)
    assert exchange.respond(line) == said


def test_a_response_without_a_token_is_rejected_without_a_hook() -> None:
    step = run("OAUTHBEARER", b"n,a=tim,\x01auth=\x01\x01")
    assert step == ProvedCredentials("tim", proved=False, mechanism="OAUTHBEARER")


def test_an_accepted_token_ends_the_exchange() -> None:
    exchange, _ = begun(MECHANISMS["XOAUTH2"], XOAUTH2)
    assert exchange.decide(replies.AUTHENTICATED) == replies.AUTHENTICATED


# -- EXTERNAL and ANONYMOUS ----------------------------------------------------------------------

CERTIFICATE = {"subject": ((("commonName", "tim"),),)}
CERTIFIED = AuthContext(lambda: "", "mx", certificate=CERTIFICATE)


@pytest.mark.parametrize(("response", "authzid"), [(b"", ""), (b"t\xc3\xadm", "tím")])
@pytest.mark.parametrize("at_once", [True, False])
def test_external_has_certificate_and_identity(
    response: bytes, authzid: str, at_once: bool
) -> None:
    answers = () if at_once else (response,)
    initial = response if at_once else None
    _, step = begun(MECHANISMS["EXTERNAL"], initial, *answers, context=CERTIFIED)
    assert step == CertificateCredentials(CERTIFICATE, authzid)


@pytest.mark.parametrize("response", [b"\0", b"tim\0", b"\xff"])
def test_external_rejects_a_malformed_identity(response: bytes) -> None:
    _, step = begun(MECHANISMS["EXTERNAL"], response, context=CERTIFIED)
    assert step == replies.BAD_RESPONSE


def test_external_rejects_a_client_without_a_certificate() -> None:
    assert run("EXTERNAL", b"") == replies.BAD_RESPONSE


@pytest.mark.parametrize("trace", ["", "sirhc", "tim@example.com", "ü" * 255])
def test_anonymous_has_a_trace(trace: str) -> None:
    assert run("ANONYMOUS", None, trace.encode()) == AnonymousCredentials(trace)
    assert run("ANONYMOUS", trace.encode()) == AnonymousCredentials(trace)


@pytest.mark.parametrize("trace", [b"a\r\nb", b"\0", b"\xc2\x85", b"\xff", b"x" * 256])
def test_anonymous_rejects_a_malformed_trace(trace: bytes) -> None:
    assert run("ANONYMOUS", trace) == replies.BAD_RESPONSE


# -- exchanges -----------------------------------------------------------------------------------


def rejects(_initial: bytes | None, _context: AuthContext) -> Steps:
    if (yield b"?") == b"yes":
        raise MechanismError
    answer = yield SecretWanted("tim")
    if answer == "yes" and not (yield AnonymousCredentials()):
        yield AnonymousCredentials()


REJECTS = Mechanism("X-REJECTS", rejects)


def test_a_mechanism_that_ends_without_credentials_rejects_the_login() -> None:
    exchange, step = begun(REJECTS, None, b"no")
    assert step == SecretWanted("tim")
    step = exchange.give(None)
    assert step == ProvedCredentials("tim", proved=False, mechanism="X-REJECTS")
    assert exchange.decide(replies.BAD_CREDENTIALS) == replies.BAD_CREDENTIALS


def test_a_mechanism_that_fails_is_a_local_error_and_reported() -> None:
    told: list[Exception] = []
    exchange = Exchange(REJECTS, None, CONTEXT, told.append)
    assert isinstance(exchange.start(), bytes)
    assert exchange.respond(encoded(b"yes")) == replies.AUTH_TROUBLE
    (error,) = told
    assert isinstance(error, MechanismError)


def test_a_rejection_without_a_last_challenge_is_sent_at_once() -> None:
    exchange, _ = begun(REJECTS, None, b"no")
    assert exchange.give("yes") == AnonymousCredentials()
    assert exchange.decide(replies.BAD_CREDENTIALS) == replies.BAD_CREDENTIALS


# -- steps that are awaited ----------------------------------------------------------------------


async def waits(initial: bytes | None, _context: AuthContext) -> AsyncSteps:
    name = ((yield b"name?") if initial is None else initial).decode()
    if name == "nobody":
        return
    secret = yield SecretWanted(name)
    if not (yield PasswordCredentials(name, secret, mechanism="X-WAITS")):
        yield b"no"


WAITS = Mechanism("X-WAITS", waits)


def awaited(exchange: Exchange, step: Step) -> Step:
    """Return what follows on a step, as a server that awaits it gets it."""
    assert isinstance(step, StepAwaited)
    return exchange.give(outcome(step))


def outcome(step: StepAwaited) -> object:
    try:
        step.proceed().__await__().send(None)  # it waits for nothing, and so needs no loop
    except StopIteration as ended:
        return ended.value
    raise AssertionError


def test_each_step_of_an_async_mechanism_is_awaited() -> None:
    exchange, step = begun(WAITS, None)
    assert not repr(step).count("waits")
    assert awaited(exchange, step) == b"334 " + encoded(b"name?").encode() + b"\r\n"
    assert awaited(exchange, exchange.respond(encoded(b"tim"))) == SecretWanted("tim")
    credentials = awaited(exchange, exchange.give("tanstaaf"))
    assert credentials == PasswordCredentials("tim", "tanstaaf", mechanism="X-WAITS")
    last = exchange.decide(replies.AUTHENTICATED)
    assert isinstance(last, StepAwaited)
    assert exchange.conclude(replies.AUTHENTICATED, outcome(last)) == replies.AUTHENTICATED


def test_an_async_mechanism_may_send_a_challenge_before_a_rejection() -> None:
    exchange, step = begun(WAITS, b"tim")
    awaited(exchange, step)
    awaited(exchange, exchange.give("x"))
    last = exchange.decide(replies.BAD_CREDENTIALS)
    assert isinstance(last, StepAwaited)
    challenge = exchange.conclude(replies.BAD_CREDENTIALS, outcome(last))
    assert challenge == b"334 " + encoded(b"no").encode() + b"\r\n"
    assert exchange.respond("") == replies.BAD_CREDENTIALS


def test_an_async_mechanism_that_ends_without_credentials_rejects_the_login() -> None:
    exchange, step = begun(WAITS, b"nobody")
    assert awaited(exchange, step) == ProvedCredentials("", proved=False, mechanism="X-WAITS")


def test_a_response_that_an_async_mechanism_cannot_read_is_malformed() -> None:
    exchange, step = begun(WAITS, b"\xff")
    assert awaited(exchange, step) == replies.BAD_RESPONSE


class Large(Exception):  # noqa: N818  it stands for what a frame of a mechanism holds
    pass


async def fails(_initial: bytes | None, _context: AuthContext) -> AsyncSteps:
    yield b"?"
    raise Large


def failed(steps: Steps) -> weakref.ref[Large]:
    """Await steps until they fail, as a server does, and keep no more than a weak reference."""
    step = next(steps)
    try:
        while True:
            step = steps.send(outcome(step) if isinstance(step, StepAwaited) else b"response")
    except Large as error:  # not by `pytest.raises`, which keeps it
        return weakref.ref(error)


def test_an_async_mechanism_that_fails_keeps_nothing_of_the_login() -> None:
    """Its exception refers to the frames that it came through, and these to the response."""
    gc.disable()
    try:
        assert failed(steps_of(fails(None, CONTEXT)))() is None
    finally:
        gc.enable()


# -- secrets -------------------------------------------------------------------------------------

KEYS = ScramKeys.derive("tanstaaf", b"salt", iterations=1)


@pytest.mark.parametrize("secret", ["tanstaaf", b"\xff", KEYS, [KEYS], (KEYS, KEYS)])
def test_a_password_or_keys_are_a_secret(secret: object) -> None:
    assert checked_secret(secret) is secret


@pytest.mark.parametrize("secret", [None, "", b"", [], ()])
def test_an_empty_secret_is_none(secret: object) -> None:
    assert checked_secret(secret) is None


@pytest.mark.parametrize("secret", [True, 1, object(), ["x"], [KEYS, None], {"x": KEYS}])
def test_any_other_secret_raises_type_error(secret: object) -> None:
    with pytest.raises(TypeError, match="on_secret returned"):
        checked_secret(secret)


def test_a_secret_that_is_not_utf8_raises_value_error() -> None:
    with pytest.raises(ValueError, match="surrogates not allowed"):
        checked_secret("\udcff")


@pytest.mark.parametrize(
    ("text", "data"), [("wönder", "wönder".encode()), ("w\udcff", b"w\xff"), (b"w\xff", b"w\xff")]
)
def test_a_password_is_the_bytes_that_the_client_sent(text: str | bytes, data: bytes) -> None:
    assert as_bytes(text) == data
