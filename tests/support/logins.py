"""Logins as a client sends them, and the forms in which a secret could leak."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import urllib.parse
from typing import Any

from scramp import ScramClient

from support.client import Client

__all__ = ["cram_md5", "disguises", "encoded", "login", "plain", "scram"]


def encoded(text: str | bytes) -> str:
    """Return `text` in base64, as in each line of an exchange."""
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def plain(username: str, password: str, authzid: str = "") -> str:
    """Return the AUTH PLAIN command with an initial response."""
    return "AUTH PLAIN " + encoded(f"{authzid}\0{username}\0{password}")


def login(client: Client, username: str, password: str) -> str:
    """Log in by LOGIN, one line at a time; return the final reply."""
    client.say("AUTH LOGIN")
    client.say(encoded(username))
    return client.say(encoded(password))


def cram_md5(client: Client, username: str, password: str) -> str:
    """Log in by CRAM-MD5; return the final reply."""
    answer = client.say("AUTH CRAM-MD5")
    assert answer.startswith("334 "), answer
    challenge = base64.b64decode(answer[4:])
    digest = hmac.new(password.encode(), challenge, hashlib.md5).hexdigest()
    return client.say(encoded(f"{username} {digest}"))


def scram(
    client: Client,
    username: str,
    password: str,
    name: str = "SCRAM-SHA-256",
    binding: tuple[str, Any] | None = None,
) -> str:
    """Log in by SCRAM with scramp, which checks the server's signature; return the final reply."""
    theirs = ScramClient([name], username, password, binding)
    answer = client.say(f"AUTH {name} " + encoded(theirs.get_client_first()))
    if not answer.startswith("334 "):
        return answer
    theirs.set_server_first(base64.b64decode(answer[4:]).decode())
    answer = client.say(encoded(theirs.get_client_final()))
    if not answer.startswith("334 "):
        return answer
    theirs.set_server_final(base64.b64decode(answer[4:]).decode())
    return client.say("")


def disguises(secret: str) -> set[str]:
    """Return a secret in each form in which it could leak."""
    data = secret.encode()
    found = {secret, repr(data)[2:-1], data.hex(), urllib.parse.quote(secret), secret[::-1]}
    # Three offsets of base64: the text before the secret shifts its bits
    for before in (b"", b"x", b"xx"):
        text = binascii.b2a_base64(before + data, newline=False).decode().rstrip("=")
        found.add(text[-(-len(before) * 8 // 6) : -1] if before else text[:-1])
    return {form.casefold() for form in found}
