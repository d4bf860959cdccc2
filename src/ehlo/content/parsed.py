"""The standard library's `EmailMessage`, of any bytes: malformed fields are plain text in it.

Its parser of fields raises on what real mail has in it, each time that the field is read.
"""

from __future__ import annotations

from collections.abc import Callable
from email import message_from_bytes
from email.headerregistry import BaseHeader, HeaderRegistry
from email.message import EmailMessage
from email.policy import EmailPolicy
from typing import Final

# What a field of MIME falls back to, so that the methods of `EmailMessage` find what they need
_MIME: Final = ("content-type", "content-disposition", "content-transfer-encoding", "mime-version")


def parse_email(data: bytes) -> EmailMessage:
    """Return the message in `data`, parsed like `email.policy.default`.

    A field that this policy cannot parse is text without structure; a malformed Content-Type loses
    its parameters.
    """
    policy = EmailPolicy(header_factory=_header_factory())
    return message_from_bytes(data, policy=policy)


def _header_factory() -> Callable[[str, str], BaseHeader]:
    structured = HeaderRegistry()
    plain = HeaderRegistry(use_default_map=False)

    def header(name: str, value: str) -> BaseHeader:
        attempts = [(structured, value)]
        if name.lower() in _MIME:
            attempts += [(structured, value.partition(";")[0]), (structured, "")]
        attempts.append((plain, value))
        for registry, text in attempts:
            try:
                return registry(name, text)
            except Exception:  # noqa: BLE001, S112  its parser raises anything at all: see above
                continue
        return plain(name, value.replace("=?", "= ?"))  # which has no encoded-word left

    return header
