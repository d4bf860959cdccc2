"""SCRAM (RFC 5802, RFC 7677), the server's half, with channel binding in the -PLUS forms.

A message that cannot be read raises `ValueError`. One that is not right is rejected, with the same
reply and after the same work whether the user exists or not.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from functools import partial
from typing import Final

from ehlo.protocol.auth.credentials import ProvedCredentials
from ehlo.protocol.auth.keys import ALGORITHMS, ScramKeys, salt_of, saslprep
from ehlo.protocol.auth.mechanism import (
    AuthContext,
    Mechanism,
    Secret,
    SecretWanted,
    Steps,
    decoded,
    encoded,
    unescaped,
)
from ehlo.protocol.grammar import SASLNAME

# RFC 5802 7: printable = %x21-2B / %x2D-7E
_PRINTABLE: Final = r"[!-+\--~]++"
# extensions = attr-val *("," attr-val); attr-val = ALPHA "=" value. The `m` that RFC 5802 5.1
# reserves is not among them: a server that cannot obey it must fail.
_EXTENSIONS: Final = r"(?:,[A-Za-ln-z]=[^\0,]++)*+"

# client-first-message = gs2-header client-first-message-bare
#   gs2-header = gs2-cbind-flag "," [ authzid ] ","; gs2-cbind-flag = ("p=" cb-name) / "n" / "y"
#   client-first-message-bare = [reserved-mext ","] username "," nonce ["," extensions]
_FIRST: Final = re.compile(
    rf"(?P<gs2>(?:(?P<flag>[ny])|p=(?P<kind>[A-Za-z0-9.\-]++)),(?:a=(?P<authzid>{SASLNAME}))?,)"
    rf"(?P<bare>n=(?P<name>{SASLNAME}),r=(?P<nonce>{_PRINTABLE}){_EXTENSIONS})"
)

# client-final-message = channel-binding "," nonce ["," extensions] "," proof. The proof ends it.
_FINAL: Final = re.compile(
    rf"(?P<unproved>c=(?P<binding>[A-Za-z0-9+/=]++),r=(?P<nonce>{_PRINTABLE})"
    rf"(?:,(?!p=)[A-Za-ln-z]=[^\0,]++)*+),p=(?P<proof>[A-Za-z0-9+/=]++)"
)

_LONGEST: Final = 2_048  # bytes of the first message, some of which are held until the second
_LONGEST_NAME: Final = 255  # bytes, as in RFC 4616 2; to prepare a name takes its time


def _parsed(form: re.Pattern[str], message: bytes) -> re.Match[str]:
    found = form.fullmatch(message.decode())
    if found is None:
        raise ValueError("malformed message")
    return found


def _name(saslname: str) -> str:
    """Return a name decoded and prepared (RFC 5802 5.1). Raises `ValueError`."""
    name = unescaped(saslname)
    if len(name) > _LONGEST_NAME or len(name.encode()) > _LONGEST_NAME:
        raise ValueError("name too long")
    prepared = saslprep(name)
    if saslname and not prepared:
        raise ValueError("nothing is left of the name")
    return prepared


def _bytes(text: str) -> bytes:
    data = decoded(text)
    if data is None:
        raise ValueError("not base64")
    return data


def _binding_of(flag: str | None, kind: str, context: AuthContext, *, plus: bool) -> bytes | None:
    """Return the data that the client must have bound to, or `None` to fail (RFC 5802 6)."""
    if plus:
        return context.bindings.get(kind)
    if flag == "y" and any(name.endswith("-PLUS") for name in context.offered):
        return None  # an attacker has removed them from what the client saw
    return None if kind else b""


def _keys_of(algorithm: str, salt: bytes, secret: Secret) -> tuple[ScramKeys, bool]:
    """Return the keys to check a proof with, and whether they are a user's.

    Keys are derived in any case, which takes a millisecond, so that no login takes longer than
    another.
    """
    password = secret if isinstance(secret, str | bytes) else b""
    derived = ScramKeys.derive(password, salt, algorithm)
    if secret is None or isinstance(secret, str | bytes):
        return derived, bool(secret)
    for keys in (secret,) if isinstance(secret, ScramKeys) else secret:
        if keys.algorithm == algorithm:
            return keys, True
    return derived, False


def _proves(proof: bytes, keys: ScramKeys, message: bytes) -> bool:
    """Return whether the proof is of the key that StoredKey is the hash of (RFC 5802 3)."""
    digest = ALGORITHMS[keys.algorithm]
    signature = hmac.digest(keys.stored_key, message, digest)
    length = len(proof) == len(signature)
    pairs = zip(proof if length else bytes(len(signature)), signature, strict=True)
    client_key = bytes(theirs ^ ours for theirs, ours in pairs)
    stored_key = hashlib.new(digest, client_key).digest()
    return hmac.compare_digest(stored_key, keys.stored_key) and length


def _mechanism(algorithm: str, *, plus: bool) -> Mechanism:
    name = f"SCRAM-{algorithm}-PLUS" if plus else f"SCRAM-{algorithm}"

    def run(initial: bytes | None, context: AuthContext) -> Steps:
        message = (yield b"") if initial is None else initial
        if len(message) > _LONGEST:
            raise ValueError("message too long")
        first = _parsed(_FIRST, message)
        username, authzid = _name(first["name"]), _name(first["authzid"] or "")
        binding = _binding_of(first["flag"], first["kind"] or "", context, plus=plus)
        if binding is None or authzid not in ("", username):
            return
        salt = salt_of(context.salt_key, algorithm, username)
        keys, known = yield SecretWanted(username, partial(_keys_of, algorithm, salt))
        nonce = first["nonce"] + context.nonce()
        server_first = f"r={nonce},s={encoded(keys.salt)},i={keys.iterations}"
        final = _parsed(_FINAL, (yield server_first.encode()))
        bound, proof = _bytes(final["binding"]), _bytes(final["proof"])
        proven = f"{first['bare']},{server_first},{final['unproved']}".encode()
        proved = _proves(proof, keys, proven) and known
        is_bound = hmac.compare_digest(bound, first["gs2"].encode() + binding)
        if proved and is_bound and final["nonce"] == nonce:
            # RFC 4954 4: a 235 carries no data, so they go before it; the client sends nothing
            signature = hmac.digest(keys.server_key, proven, ALGORITHMS[algorithm])
            if (yield f"v={encoded(signature)}".encode()):
                raise ValueError("a response to the server's final message")
            yield ProvedCredentials(username, proved=True, mechanism=name)

    # RFC 5802 5: the client speaks first. An eavesdropper learns nothing of use from it.
    return Mechanism(name, run, needs_tls=plus, client_first=True, needs_binding=plus)


# The strongest first
SCRAM: Final = tuple(
    _mechanism(algorithm, plus=plus) for plus in (True, False) for algorithm in ("SHA-256", "SHA-1")
)
