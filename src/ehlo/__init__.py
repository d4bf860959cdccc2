"""ehlo is an SMTP server framework for Python: your function is called for every message.

    import ehlo

    def handler(remote_addr, mail_from, rcpt_tos, data):
        print(f"mail from {mail_from} for {rcpt_tos[0]}: {len(data)} bytes")

    ehlo.listen_and_serve("127.0.0.1:2525", handler, "MyServerApp")

Names are imported when they are first used, so that `import ehlo` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ehlo.content.codes import Code as Code
    from ehlo.content.links import Link as Link
    from ehlo.content.view import Attachment as Attachment
    from ehlo.content.view import Content as Content
    from ehlo.domains import same_domain as same_domain
    from ehlo.domains import to_ascii as to_ascii
    from ehlo.faults.fault import Fault as Fault
    from ehlo.faults.plan import Faults as Faults
    from ehlo.functions import MessageFunction as MessageFunction
    from ehlo.handler import Answer as Answer
    from ehlo.handler import Handler as Handler
    from ehlo.message import Message as Message
    from ehlo.net import Peer as Peer
    from ehlo.passwords.file import PasswordFile as PasswordFile
    from ehlo.protocol.address import Address as Address
    from ehlo.protocol.auth.credentials import AnonymousCredentials as AnonymousCredentials
    from ehlo.protocol.auth.credentials import CertificateCredentials as CertificateCredentials
    from ehlo.protocol.auth.credentials import CramMD5Credentials as CramMD5Credentials
    from ehlo.protocol.auth.credentials import Credentials as Credentials
    from ehlo.protocol.auth.credentials import PasswordCredentials as PasswordCredentials
    from ehlo.protocol.auth.credentials import TokenCredentials as TokenCredentials
    from ehlo.protocol.auth.credentials import cram_md5_matches as cram_md5_matches
    from ehlo.protocol.auth.keys import ScramKeys as ScramKeys
    from ehlo.protocol.auth.mechanism import AuthContext as AuthContext
    from ehlo.protocol.auth.mechanism import Mechanism as Mechanism
    from ehlo.protocol.auth.mechanism import SecretWanted as SecretWanted
    from ehlo.protocol.extensions import Extension as Extension
    from ehlo.protocol.parameters import DeliverBy as DeliverBy
    from ehlo.protocol.parameters import Facts as Facts
    from ehlo.protocol.parameters import MailParams as MailParams
    from ehlo.protocol.parameters import OriginalRecipient as OriginalRecipient
    from ehlo.protocol.parameters import RcptParams as RcptParams
    from ehlo.protocol.parameters import Rrvs as Rrvs
    from ehlo.protocol.proxy import ProxySSL as ProxySSL
    from ehlo.protocol.reply import Disconnect as Disconnect
    from ehlo.protocol.reply import Reject as Reject
    from ehlo.protocol.reply import Reply as Reply
    from ehlo.queue.accepting import Queue as Queue
    from ehlo.queue.attempts import QueuedMessage as QueuedMessage
    from ehlo.queue.attempts import Retry as Retry
    from ehlo.server.options.config import Listener as Listener
    from ehlo.server.server import Server as Server
    from ehlo.server.server import listen_and_serve as listen_and_serve
    from ehlo.server.server import listen_and_serve_tls as listen_and_serve_tls
    from ehlo.session import Envelope as Envelope
    from ehlo.session import ProxyInfo as ProxyInfo
    from ehlo.session import Session as Session
    from ehlo.session import TLSInfo as TLSInfo
    from ehlo.session import current_session as current_session
    from ehlo.transcript import Line as Line
    from ehlo.transcript import Transcript as Transcript

__version__ = "0.1.0"

# By module: the names that users import from `ehlo`
_HOMES = {
    "ehlo.content.codes": "Code",
    "ehlo.content.links": "Link",
    "ehlo.content.view": "Attachment Content",
    "ehlo.domains": "same_domain to_ascii",
    "ehlo.faults.fault": "Fault",
    "ehlo.faults.plan": "Faults",
    "ehlo.functions": "MessageFunction",
    "ehlo.handler": "Answer Handler",
    "ehlo.message": "Message",
    "ehlo.net": "Peer",
    "ehlo.passwords.file": "PasswordFile",
    "ehlo.protocol.address": "Address",
    "ehlo.protocol.auth.credentials": (
        "AnonymousCredentials CertificateCredentials CramMD5Credentials Credentials "
        "PasswordCredentials TokenCredentials cram_md5_matches"
    ),
    "ehlo.protocol.auth.keys": "ScramKeys",
    "ehlo.protocol.auth.mechanism": "AuthContext Mechanism SecretWanted",
    "ehlo.protocol.extensions": "Extension",
    "ehlo.protocol.parameters": "DeliverBy Facts MailParams OriginalRecipient RcptParams Rrvs",
    "ehlo.protocol.proxy": "ProxySSL",
    "ehlo.protocol.reply": "Disconnect Reject Reply",
    "ehlo.queue.accepting": "Queue",
    "ehlo.queue.attempts": "QueuedMessage Retry",
    "ehlo.server.options.config": "Listener",
    "ehlo.server.server": "Server listen_and_serve listen_and_serve_tls",
    "ehlo.session": "Envelope ProxyInfo Session TLSInfo current_session",
    "ehlo.transcript": "Line Transcript",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'ehlo' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
