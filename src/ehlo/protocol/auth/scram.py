"""SCRAM (RFC 5802, RFC 7677), the server's half, with channel binding in the -PLUS forms.

What cannot be read is a `ValueError`. What can be and is not right ends in a refusal, in the same
words and after the same work whether there is such a user or not.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from typing import Final, NamedTuple

from ehlo.protocol.auth.credentials import ProvedCredentials
from ehlo.protocol.auth.keys import ALGORITHMS, ScramKeys, salt_of
from ehlo.protocol.auth.mechanism import (
    AuthContext,
    Mechanism,
    Secret,
    SecretWanted,
    Steps,
    decoded,
    unescaped,
)
from ehlo.protocol.auth.saslprep import saslprep
from ehlo.protocol.grammar import SASLNAME

__all__ = ["SCRAM"]

# RFC 5802 7: printable = %x21-2B / %x2D-7E
_PRINTABLE: Final = r"[!-+\--~]++"
# extensions = attr-val *("," attr-val); attr-val = ALPHA "=" value. The `m` that RFC 5802 5.1
# reserves is none of them: whoever cannot obey it has to fail.
_EXTENSIONS: Final = r"(?:,[A-Za-ln-z]=[^\0,]++)*+"

# client-first-message = gs2-header client-first-message-bare
#   gs2-header = gs2-cbind-flag "," [ authzid ] ","; gs2-cbind-flag = ("p=" cb-name) / "n" / "y"
#   client-first-message-bare = [reserved-mext ","] username "," nonce ["," extensions]
_FIRST: Final = re.compile(
    rf"(?P<gs2>(?:(?P<flag>[ny])|p=(?P<type>[A-Za-z0-9.\-]++)),(?:a=(?P<authzid>{SASLNAME}))?,)"
    rf"(?P<bare>n=(?P<name>{SASLNAME}),r=(?P<nonce>{_PRINTABLE}){_EXTENSIONS})"
)

# client-final-message = channel-binding "," nonce ["," extensions] "," proof. The proof ends it.
_FINAL: Final = re.compile(
    rf"(?P<unproved>c=(?P<binding>[A-Za-z0-9+/=]++),r=(?P<nonce>{_PRINTABLE})"
    rf"(?:,(?!p=)[A-Za-ln-z]=[^\0,]++)*+),p=(?P<proof>[A-Za-z0-9+/=]++)"
)

_LONGEST_NAME: Final = 255  # characters; to prepare one takes its time


class ClientFirst(NamedTuple):
    """A client's first message."""

    gs2: bytes
    flag: str
    """`n`, `y`, or `p` and then the type of binding."""
    binding_type: str
    authzid: str
    bare: str
    username: str
    nonce: str


class ClientFinal(NamedTuple):
    """A client's final message."""

    unproved: str
    binding: bytes
    nonce: str
    proof: bytes


def _first(message: bytes) -> ClientFirst:
    found = _FIRST.fullmatch(message.decode())
    if found is None:
        raise ValueError("no client-first-message")
    return ClientFirst(
        gs2=found["gs2"].encode(),
        flag=found["flag"] or "p",
        binding_type=found["type"] or "",
        authzid=_name(found["authzid"] or ""),
        bare=found["bare"],
        username=_name(found["name"]),
        nonce=found["nonce"],
    )


def _name(saslname: str) -> str:
    """Decoded, and prepared (RFC 5802 5.1). Raises `ValueError`."""
    if len(saslname) > _LONGEST_NAME:
        raise ValueError("no name is that long")
    prepared = saslprep(unescaped(saslname))
    if saslname and not prepared:
        raise ValueError("a name of nothing")
    return prepared


def _final(message: bytes) -> ClientFinal:
    found = _FINAL.fullmatch(message.decode())
    if found is None:
        raise ValueError("no client-final-message")
    binding, proof = decoded(found["binding"]), decoded(found["proof"])
    if binding is None or proof is None:
        raise ValueError("no base64")
    return ClientFinal(found["unproved"], binding, found["nonce"], proof)


def _binding_of(first: ClientFirst, context: AuthContext, *, plus: bool) -> bytes | None:
    """The data that the client has to have bound to; `None` for what has to fail (RFC 5802 6)."""
    if plus:
        return context.bindings.get(first.binding_type) if first.flag == "p" else None
    if first.flag == "y" and any(name.endswith("-PLUS") for name in context.offered):
        return None  # it did not see what we offer: somebody between us has taken it away
    return None if first.flag == "p" else b""


def _keys_of(secret: Secret, algorithm: str, salt: bytes) -> tuple[ScramKeys, bool]:
    """The keys to check a proof with, and whether they are a user's.

    A password is turned into keys in any case, so that none of them takes longer than another.
    """
    password = secret if isinstance(secret, str | bytes) else b""
    derived = ScramKeys.derive(password, salt, algorithm)
    if secret is None or isinstance(secret, str | bytes):
        return derived, bool(secret)
    stored = (secret,) if isinstance(secret, ScramKeys) else secret
    for keys in stored:
        if keys.algorithm == algorithm:
            return keys, True
    return derived, False


def _proves(final: ClientFinal, keys: ScramKeys, message: bytes) -> bool:
    """RFC 5802 3: whether the proof is of the key that StoredKey is the hash of."""
    digest = ALGORITHMS[keys.algorithm]
    signature = hmac.digest(keys.stored_key, message, digest)
    length = len(final.proof) == len(signature)
    proof = final.proof if length else bytes(len(signature))
    client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
    stored_key = hashlib.new(digest, client_key).digest()
    return hmac.compare_digest(stored_key, keys.stored_key) and length


def _base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


def _mechanism(algorithm: str, *, plus: bool) -> Mechanism:
    name = f"SCRAM-{algorithm}-PLUS" if plus else f"SCRAM-{algorithm}"

    def run(initial: bytes | None, context: AuthContext) -> Steps:
        first = _first((yield b"") if initial is None else initial)
        binding = _binding_of(first, context, plus=plus)
        if binding is None or first.authzid not in ("", first.username):
            return
        secret: Secret = yield SecretWanted(first.username)
        salt = salt_of(context.salt_key, algorithm, first.username)
        keys, known = _keys_of(secret, algorithm, salt)
        nonce = first.nonce + context.nonce()
        server_first = f"r={nonce},s={_base64(keys.salt)},i={keys.iterations}"
        final = _final((yield server_first.encode()))
        message = f"{first.bare},{server_first},{final.unproved}".encode()
        proved = _proves(final, keys, message) and known
        bound = hmac.compare_digest(final.binding, first.gs2 + binding)
        if proved and bound and final.nonce == nonce:
            # RFC 4954 4: a 235 carries no data. They go before it, and the client says nothing.
            signature = hmac.digest(keys.server_key, message, ALGORITHMS[algorithm])
            if (yield f"v={_base64(signature)}".encode()):
                raise ValueError("a response to the server's final message")
            yield ProvedCredentials(first.username, proved=True, mechanism=name)

    # RFC 5802 5: the client speaks first. Nothing that it says is of use to who overhears it.
    return Mechanism(name, run, needs_tls=plus, client_first=True, needs_binding=plus)


# The strongest first
SCRAM: Final = tuple(
    _mechanism(algorithm, plus=plus) for plus in (True, False) for algorithm in ("SHA-256", "SHA-1")
)
