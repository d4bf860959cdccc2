"""ehlo is an SMTP server framework for Python: your function is called for every message.

    import ehlo

    def handler(remote_addr, mail_from, rcpt_tos, data):
        print(f"mail from {mail_from} for {rcpt_tos[0]}: {len(data)} bytes")

    ehlo.listen_and_serve("127.0.0.1:2525", handler, "MyServerApp")

Names are imported when they are first used, so that `import ehlo` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ehlo.domains import same_domain, to_ascii
    from ehlo.handler import Handler
    from ehlo.message import Message
    from ehlo.net import Peer
    from ehlo.passwords.file import PasswordFile
    from ehlo.protocol.address import Address
    from ehlo.protocol.auth.credentials import (
        AnonymousCredentials,
        CertificateCredentials,
        CramMD5Credentials,
        Credentials,
        PasswordCredentials,
        TokenCredentials,
        cram_md5_matches,
    )
    from ehlo.protocol.auth.keys import ScramKeys
    from ehlo.protocol.auth.mechanism import AuthContext, Mechanism, SecretWanted
    from ehlo.protocol.extensions import Extension
    from ehlo.protocol.parameters import DeliverBy, Facts, OriginalRecipient, Rrvs
    from ehlo.protocol.proxy import ProxySSL
    from ehlo.protocol.reply import Reject, Reply
    from ehlo.server.options.config import Listener
    from ehlo.server.server import Server, listen_and_serve, listen_and_serve_tls
    from ehlo.session import ProxyInfo, Session, TLSInfo, current_session

__all__ = [
    "Address",
    "AnonymousCredentials",
    "AuthContext",
    "CertificateCredentials",
    "CramMD5Credentials",
    "Credentials",
    "DeliverBy",
    "Extension",
    "Facts",
    "Handler",
    "Listener",
    "Mechanism",
    "Message",
    "OriginalRecipient",
    "PasswordCredentials",
    "PasswordFile",
    "Peer",
    "ProxyInfo",
    "ProxySSL",
    "Reject",
    "Reply",
    "Rrvs",
    "ScramKeys",
    "SecretWanted",
    "Server",
    "Session",
    "TLSInfo",
    "TokenCredentials",
    "cram_md5_matches",
    "current_session",
    "listen_and_serve",
    "listen_and_serve_tls",
    "same_domain",
    "to_ascii",
]

_HOMES = {
    "ehlo.domains": ("same_domain", "to_ascii"),
    "ehlo.handler": ("Handler",),
    "ehlo.message": ("Message",),
    "ehlo.net": ("Peer",),
    "ehlo.passwords.file": ("PasswordFile",),
    "ehlo.protocol.address": ("Address",),
    "ehlo.protocol.auth.credentials": (
        *("AnonymousCredentials", "CertificateCredentials", "CramMD5Credentials", "Credentials"),
        *("PasswordCredentials", "TokenCredentials", "cram_md5_matches"),
    ),
    "ehlo.protocol.proxy": ("ProxySSL",),
    "ehlo.protocol.reply": ("Reject", "Reply"),
    "ehlo.protocol.extensions": ("Extension",),
    "ehlo.protocol.parameters": ("DeliverBy", "Facts", "OriginalRecipient", "Rrvs"),
    "ehlo.protocol.auth.mechanism": ("AuthContext", "Mechanism", "SecretWanted"),
    "ehlo.protocol.auth.keys": ("ScramKeys",),
    "ehlo.server.options.config": ("Listener",),
    "ehlo.server.server": ("Server", "listen_and_serve", "listen_and_serve_tls"),
    "ehlo.session": ("ProxyInfo", "Session", "TLSInfo", "current_session"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'ehlo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
