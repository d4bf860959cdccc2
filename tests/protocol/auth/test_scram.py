"""SCRAM: the example exchanges of the RFCs, scramp as a client, and rejected messages."""

from __future__ import annotations

import base64
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramClient, ScramException

from ehlo.protocol import reply as replies
from ehlo.protocol.auth import scram
from ehlo.protocol.auth.credentials import Credentials, ProvedCredentials
from ehlo.protocol.auth.keys import ScramKeys, salt_of
from ehlo.protocol.auth.mechanism import (
    AuthContext,
    Exchange,
    Secret,
    SecretWanted,
    Step,
    StepAwaited,
)
from ehlo.protocol.auth.mechanisms import MECHANISMS
from ehlo.protocol.reply import Reply
from support.counting import calls_of

ALGORITHMS = ("SHA-1", "SHA-256")
NAMES = tuple(name for name in MECHANISMS if name.startswith("SCRAM-"))
BARE = tuple(name for name in NAMES if not name.endswith("-PLUS"))
BINDINGS = {"tls-server-end-point": b"a hash of a certificate", "tls-unique": b"a Finished"}
CONTEXT = AuthContext(lambda: "0123456789abcdef", "mx.example.com", salt_key=b"salt key")
BOUND = replace(CONTEXT, bindings=BINDINGS, offered=NAMES)


class Login:
    """Runs one exchange; messages are passed and returned without base64."""

    def __init__(
        self, name: str, secret: Secret, context: AuthContext = CONTEXT, *, at_once: bool = True
    ) -> None:
        self._mechanism = MECHANISMS[name]
        self._secret = secret
        self._context = context
        self._at_once = at_once
        self._exchange: Exchange | None = None
        self.asked: list[str] = []

    def say(self, message: str | bytes) -> str | Credentials | Reply:
        data = message.encode() if isinstance(message, str) else message
        if self._exchange is None:
            initial = data if self._at_once else None
            self._exchange = Exchange(self._mechanism, initial, self._context, lambda _error: None)
            step = self._exchange.start()
            if self._at_once:
                return self._heard(step)
            assert step == b"334 \r\n"
        return self._heard(self._exchange.respond(base64.b64encode(data).decode()))

    def _heard(self, step: Step) -> str | Credentials | Reply:
        assert self._exchange is not None
        if isinstance(step, SecretWanted):
            self.asked.append(step.username)
            step = self._exchange.give(step.derived(self._secret))
        if isinstance(step, bytes):
            return base64.b64decode(step.removeprefix(b"334 ")).decode()
        assert not isinstance(step, SecretWanted | StepAwaited)
        return step


def proved(name: str, user: str = "user") -> ProvedCredentials:
    return ProvedCredentials(user, proved=True, mechanism=name)


def rejected(name: str, user: str = "user") -> ProvedCredentials:
    return ProvedCredentials(user, proved=False, mechanism=name)


# -- the examples of the RFCs --------------------------------------------------------------------

# RFC 5802 5 and RFC 7677 3: user "user", password "pencil"
EXAMPLES = {
    "SHA-1": (
        "3rfcNHYJY1ZVvWVs7j",
        "QSXCR+Q6sek8bf92",
        "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
        "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
        ("c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts="),
        "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
    ),
    "SHA-256": (
        "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
        "W22ZaJ0SNY7soEsUEjb6gQ==",
        "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
        ("r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"),
        (
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
            "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        ),
        "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    ),
}


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_example_of_the_rfc_logs_in(algorithm: str, at_once: bool) -> None:
    nonce, salt, first, server_first, final, server_final = EXAMPLES[algorithm]
    keys = ScramKeys.derive("pencil", base64.b64decode(salt), algorithm)
    name = f"SCRAM-{algorithm}"
    login = Login(name, keys, replace(CONTEXT, nonce=lambda: nonce), at_once=at_once)
    assert login.say(first) == server_first
    assert login.say(final) == server_final
    assert login.say("") == proved(name)
    assert login.asked == ["user"]


# -- scramp --------------------------------------------------------------------------------------


def played(login: Login, client: ScramClient) -> str | Credentials | Reply:
    """Return the result of the login; scramp checks the server's signature."""
    step = login.say(client.get_client_first())
    if not isinstance(step, str):
        return step
    client.set_server_first(step)
    step = login.say(client.get_client_final())
    if not isinstance(step, str):
        return step
    client.set_server_final(step)
    return login.say("")


def keys_of(password: str, *algorithms: str) -> list[ScramKeys]:
    return [
        ScramKeys.derive(password, b"sixteen bytes...", algorithm, 5000) for algorithm in algorithms
    ]


@pytest.mark.parametrize("user", ["user", "a,b=c", "=2C", "jürgen", "a b"])
@pytest.mark.parametrize("password", ["pencil", "pass,wörd=", "\N{ROMAN NUMERAL NINE}"])
@pytest.mark.parametrize("stored", ["text", "octets", "keys", "list"])
@pytest.mark.parametrize("name", BARE)
def test_scramp_logs_in(name: str, stored: str, password: str, user: str) -> None:
    algorithm = name.removeprefix("SCRAM-")
    secrets: dict[str, Secret] = {
        "text": password,
        "octets": password.replace("\N{ROMAN NUMERAL NINE}", "IX").encode(),
        "keys": keys_of(password, algorithm)[0],
        "list": keys_of(password, "SHA-256", "SHA-1"),
    }
    login = Login(name, secrets[stored])
    assert played(login, ScramClient([name], user, password)) == proved(name, user)
    assert login.asked == [user]


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("-PLUS")])
def test_scramp_logs_in_with_a_channel_binding(name: str, binding: str) -> None:
    client = ScramClient(NAMES[:2], "user", "pencil", (binding, BINDINGS[binding]))
    assert client.mechanism_name == "SCRAM-SHA-256-PLUS"
    client = ScramClient([name], "user", "pencil", (binding, BINDINGS[binding]))
    assert played(Login(name, "pencil", BOUND), client) == proved(name)


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("-PLUS")])
def test_a_binding_to_another_channel_is_rejected(name: str) -> None:
    client = ScramClient([name], "user", "pencil", ("tls-unique", b"another's Finished"))
    assert played(Login(name, "pencil", BOUND), client) == rejected(name)


@pytest.mark.parametrize("secret", ["pencils", None, b"\xff"])
@pytest.mark.parametrize("name", BARE)
def test_a_wrong_password_or_user_is_rejected_at_the_proof(name: str, secret: Secret) -> None:
    client = ScramClient([name], "user", "pencil")
    assert played(Login(name, secret), client) == rejected(name)


@pytest.mark.parametrize("name", BARE)
def test_keys_of_another_algorithm_are_ignored(name: str) -> None:
    (other,) = {"SHA-1", "SHA-256"} - {name.removeprefix("SCRAM-")}
    for secret in (keys_of("pencil", other), keys_of("pencil", other)[0]):
        assert played(Login(name, secret), ScramClient([name], "user", "pencil")) == rejected(name)


# -- unknown users -------------------------------------------------------------------------------


def server_first(name: str, user: str, secret: Secret, context: AuthContext = CONTEXT) -> str:
    step = Login(name, secret, context).say(f"n,,n={user},r=abc")
    assert isinstance(step, str)
    return step


@pytest.mark.parametrize("name", BARE)
def test_an_unknown_user_gets_the_same_challenge_as_a_known_one(name: str) -> None:
    nobody = server_first(name, "nobody", None)
    assert nobody == server_first(name, "nobody", None)  # the same at each try
    assert nobody == server_first(name, "nobody", "pencil")
    assert nobody != server_first(name, "somebody", None)
    assert nobody != server_first(name, "nobody", None, replace(CONTEXT, salt_key=b"other"))
    salt = base64.b64decode(nobody.split(",")[1].removeprefix("s="))
    assert len(salt) == 16
    assert nobody.endswith(",i=4096")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_keys_of_an_unknown_user_look_like_a_users_and_match_no_proof(algorithm: str) -> None:
    name = f"SCRAM-{algorithm}"
    nobody = ScramKeys.of_nobody("user", b"salt key", algorithm, 5000)
    kept = ScramKeys.derive("pencil", nobody.salt, algorithm, 5000)
    assert server_first(name, "user", nobody) == server_first(name, "user", kept)
    for password in ("pencil", ""):
        login = Login(name, nobody)
        assert played(login, ScramClient([name], "user", password)) == rejected(name)
    assert played(Login(name, kept), ScramClient([name], "user", "pencil")) == proved(name)


def test_salts_differ_by_algorithm_and_name() -> None:
    pairs = [(algorithm, name) for algorithm in ALGORITHMS for name in ("a", "b")]
    assert len({salt_of(b"key", *pair) for pair in pairs}) == 4


@pytest.mark.parametrize("secret", [None, "pencil", b"pencil", keys_of("pencil", *ALGORITHMS)])
def test_each_login_hashes_exactly_once(secret: Secret, monkeypatch: pytest.MonkeyPatch) -> None:
    derived: list[str] = []
    derive = ScramKeys.derive

    def counted(password: str | bytes, salt: bytes, algorithm: str) -> ScramKeys:
        derived.append(algorithm)
        return derive(password, salt, algorithm)

    monkeypatch.setattr(ScramKeys, "derive", counted)
    server_first("SCRAM-SHA-256", "user", secret)
    assert derived == ["SHA-256"]


# -- bindings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BARE)
def test_a_client_that_says_y_is_rejected_if_a_binding_was_offered(name: str) -> None:
    assert Login(name, "pencil", BOUND).say("y,,n=user,r=abc") == rejected(name, "")
    # and accepted if it was not
    assert isinstance(Login(name, "pencil").say("y,,n=user,r=abc"), str)
    client = ScramClient([name], "user", "pencil", ("tls-unique", b"x"))
    assert played(Login(name, "pencil"), client) == proved(name)


@pytest.mark.parametrize("name", BARE)
def test_a_client_without_a_binding_logs_in(name: str) -> None:
    client = ScramClient([name], "user", "pencil")
    assert played(Login(name, "pencil", BOUND), client) == proved(name)


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("SCRAM-SHA-256", "p=tls-unique"),
        ("SCRAM-SHA-256-PLUS", "n"),
        ("SCRAM-SHA-256-PLUS", "y"),
        ("SCRAM-SHA-256-PLUS", "p=tls-exporter"),
        ("SCRAM-SHA-256-PLUS", "p=TLS-UNIQUE"),
    ],
)
def test_a_flag_of_the_other_form_is_rejected_without_a_hook(name: str, flag: str) -> None:
    login = Login(name, "pencil", BOUND)
    assert login.say(f"{flag},,n=user,r=abc") == rejected(name, "")
    assert login.asked == []


# -- identities ----------------------------------------------------------------------------------


@pytest.mark.parametrize("authzid", ["user", ""])
def test_a_user_may_act_as_themselves(authzid: str) -> None:
    header = f"n,a={authzid}," if authzid else "n,,"
    assert isinstance(Login("SCRAM-SHA-1", "pencil").say(f"{header}n=user,r=abc"), str)


def test_a_user_may_not_act_as_another() -> None:
    login = Login("SCRAM-SHA-1", "pencil")
    assert login.say("n,a=root,n=user,r=abc") == rejected("SCRAM-SHA-1", "")
    assert login.asked == []


def test_a_user_name_is_prepared() -> None:
    login = Login("SCRAM-SHA-1", "pencil")
    login.say("n,a=IX,n=\N{ROMAN NUMERAL NINE}\N{SOFT HYPHEN},r=abc")
    assert login.asked == ["IX"]


# -- malformed messages --------------------------------------------------------------------------

MALFORMED_FIRST = [
    "",
    ",",
    "n,,",
    "n,,n=user",
    "n,,n=user,r=",
    "n,,n=,r=abc",
    "n,n=user,r=abc",
    "n=user,r=abc",
    "x,,n=user,r=abc",
    "N,,n=user,r=abc",
    "ny,,n=user,r=abc",
    "p,,n=user,r=abc",
    "p=,,n=user,r=abc",
    "p=a_b,,n=user,r=abc",
    "n,user,n=user,r=abc",
    "n,a=,n=user,r=abc",
    "n,a=us=er,n=user,r=abc",
    "n,,r=abc,n=user",
    "n,,m=x,n=user,r=abc",  # reserved
    "n,,n=user,r=abc,m=x",
    "n,,n=us=er,r=abc",
    "n,,n=us=2cer,r=abc",
    "n,,n=us=2,r=abc",
    "n,,n=us\0er,r=abc",
    "n,,n=us\ner,r=abc",
    "n,,n=\N{SOFT HYPHEN},r=abc",
    "n,,n=" + "x" * 256 + ",r=abc",
    "n,,n=user,r=a c",
    "n,,n=user,r=a\tc",
    "n,,n=user,r=äc",
    "n,,n=user,r=abc,",
    "n,,n=user,r=abc,x",
    "n,,n=user,r=abc,x=",
    "n,,n=user,r=abc,1=x",
    "n,,n=user,r=abc,x=\0",
    " n,,n=user,r=abc",
    "n,,n=user,r=abc\n",
    b"n,,n=\xff,r=abc",
]
NONCE = "abc0123456789abcdef"
PROOF = base64.b64encode(bytes(20)).decode()
MALFORMED_FINAL = [
    "",
    "c=biws",
    f"c=biws,r={NONCE}",
    f"c=biws,r={NONCE},p=",
    f"c=,r={NONCE},p={PROOF}",
    f"c=biw,r={NONCE},p={PROOF}",
    f"c=biws,r={NONCE},p={PROOF}A",
    f"c=biws,r={NONCE},p={PROOF},x=y",
    f"c=biws,r={NONCE},p=AAAA,p={PROOF}",
    f"c=biws,r={NONCE},m=x,p={PROOF}",
    f"c=biws,r={NONCE},x,p={PROOF}",
    f"c=biws,r=,p={PROOF}",
    f"r={NONCE},c=biws,p={PROOF}",
    f"c=biws,p={PROOF},r={NONCE}",
    f"m=x,c=biws,r={NONCE},p={PROOF}",
    f"c=b!ws,r={NONCE},p={PROOF}",
    f"c=biws,r={NONCE},p={PROOF}\n",
    b"\xff",
]


@pytest.mark.parametrize("message", MALFORMED_FIRST)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_malformed_first_message_is_rejected(message: str | bytes, at_once: bool) -> None:
    login = Login("SCRAM-SHA-1", "pencil", at_once=at_once)
    assert login.say(message) == replies.BAD_RESPONSE
    assert login.asked == []


@pytest.mark.parametrize("message", MALFORMED_FINAL)
def test_a_malformed_final_message_is_rejected(message: str | bytes) -> None:
    login = Login("SCRAM-SHA-1", "pencil")
    login.say("n,,n=user,r=abc")
    assert login.say(message) == replies.BAD_RESPONSE


def with_proof(
    login: Login, *, first: str = "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL", **changes: str
) -> str | Credentials | Reply:
    """Play the login of scramp, with parts of its messages changed."""
    client = ScramClient(["SCRAM-SHA-1"], "user", "pencil", c_nonce="fyko+d2lbbFgONRv9qkxdawL")
    client.get_client_first()
    step = login.say(first)
    assert isinstance(step, str)
    client.set_server_first(step)
    final = client.get_client_final()
    for old, new in changes.items():
        field = next(part for part in final.split(",") if part.startswith(f"{old}="))
        final = final.replace(field, f"{old}={new}")
    return login.say(final)


def test_a_message_that_was_changed_on_the_way_is_rejected() -> None:
    def login() -> Login:
        return Login("SCRAM-SHA-1", "pencil")

    assert isinstance(with_proof(login()), str)
    for changes in (
        {"c": base64.b64encode(b"y,,").decode()},
        {"c": base64.b64encode(b"n,,x").decode()},
        {"r": "fyko+d2lbbFgONRv9qkxdawL"},
        {"r": "fyko+d2lbbFgONRv9qkxdawL0123456789abcdeg"},
        {"p": PROOF},
        {"p": "AAAA"},
        {"p": base64.b64encode(bytes(32)).decode()},
    ):
        assert with_proof(login(), **changes) == rejected("SCRAM-SHA-1"), changes
    first = "n,a=user,n=user,r=fyko+d2lbbFgONRv9qkxdawL"
    assert with_proof(login(), first=first) == rejected("SCRAM-SHA-1")


def test_extensions_are_ignored_and_signed() -> None:
    login = Login("SCRAM-SHA-1", "pencil")
    first = "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL,x=y=z"
    # scramp does not know of the extension, so its proof is of another message
    assert with_proof(login, first=first) == rejected("SCRAM-SHA-1")


def test_a_response_to_the_final_message_must_be_empty() -> None:
    login = Login("SCRAM-SHA-1", "pencil")
    assert isinstance(with_proof(login), str)
    assert login.say("thanks") == replies.BAD_RESPONSE


def test_scramp_rejects_another_server() -> None:
    client = ScramClient(["SCRAM-SHA-1"], "user", "pencil")
    login = Login("SCRAM-SHA-1", "pencil")
    step = login.say(client.get_client_first())
    client.set_server_first(step)
    login.say(client.get_client_final())
    with pytest.raises(ScramException):
        client.set_server_final("v=rmF9pqV8S7suAoZWja4dJRkFsKQ=")


# -- arbitrary messages --------------------------------------------------------------------------

pieces = st.sampled_from(
    [
        *("n", "y", "p=tls-unique", ",", "a=", "n=", "r=", "c=", "p=", "m=", "=2C", "=3D", "="),
        *("x=y", "user", "abc", "biws", NONCE, PROOF, "\0", "ü", "\N{ARABIC LETTER ALEF}", "\n"),
    ]
)
messages = st.one_of(
    st.lists(pieces, max_size=14).map("".join),
    st.text(max_size=40),
    st.binary(max_size=40),
    st.sampled_from(["n,,n=user,r=abc", f"c=biws,r={NONCE},p={PROOF}"]),
)
CHEAP = ScramKeys.derive("pencil", b"sixteen bytes...", "SHA-256", 1)


@pytest.mark.no_cover
@given(st.lists(messages, min_size=1, max_size=4), st.sampled_from(NAMES), st.booleans())
def test_no_message_raises_an_exception(said: list[str | bytes], name: str, bound: bool) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ScramKeys, "derive", lambda *_: CHEAP)
        login = Login(name, "pencil", BOUND if bound else CONTEXT)
        for message in said:
            step = login.say(message)
            if not isinstance(step, str):
                assert step in (replies.BAD_RESPONSE, rejected(name), rejected(name, ""))
                break


MOST_CALLS = 500  # of functions in Python and in C, for a message of any length


@pytest.mark.parametrize("unit", [",", "=", "=2C", ",x=y", "x", ",x=", "n", "p=", "\N{DIAERESIS}"])
@pytest.mark.parametrize("before", ["", "n,,n=", "n,,n=user,r=", "n,,n=user,r=a", "p=", "n,a="])
def test_a_long_first_message_makes_few_calls(before: str, unit: str) -> None:
    login = Login("SCRAM-SHA-1", None)
    assert calls_of(lambda: login.say(before + unit * 9000)) < MOST_CALLS


@pytest.mark.parametrize("unit", [",", "=", ",x=y", "x", ",x=", "p=", ",p=", "A"])
@pytest.mark.parametrize("before", ["c=", "c=biws,r=", "c=biws,r=a", "c=biws,r=a,p="])
def test_a_long_final_message_makes_few_calls(before: str, unit: str) -> None:
    login = Login("SCRAM-SHA-1", None)
    login.say("n,,n=user,r=abc")
    assert calls_of(lambda: login.say(before + unit * 9000)) < MOST_CALLS


def test_a_form_of_messages_is_matched_in_linear_time() -> None:
    """No repetition gives back what it has matched, so no character is tried often."""
    forms = [each for each in vars(scram).values() if isinstance(each, re.Pattern)]
    assert len(forms) == 2
    for form in forms:
        without_classes = re.sub(r"\[(?:\\.|[^\]\\])+\]", "x", form.pattern)
        repetitions = re.findall(r"[*+{][*+]*", without_classes)
        assert len(repetitions) >= 5
        assert set(repetitions) <= {"++", "*+"}
