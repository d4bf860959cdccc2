"""The standard library's `EmailMessage`, of any bytes: malformed fields are plain text in it.

Its parser of fields raises an exception for fields that real mail has, each time that such a field
is read. Its texts have CRLF line ends, as on the wire; here they have LF, as other text in Python.
"""

from __future__ import annotations

from email import message_from_bytes
from email.headerregistry import BaseHeader, HeaderRegistry
from email.message import EmailMessage
from email.policy import EmailPolicy
from typing import Any, Final

# What a field of MIME falls back to, so that the methods of `EmailMessage` find what they need
_MIME: Final = ("content-type", "content-disposition", "content-transfer-encoding", "mime-version")


class _Fields(HeaderRegistry):
    """Makes the value of a field from its name and its text, whatever that is."""

    def __call__(self, name: str, value: str) -> BaseHeader:
        attempts = [value]
        if name.lower() in _MIME:
            attempts += [value.partition(";")[0], ""]
        for text in attempts:
            try:
                return super().__call__(name, text)
            except Exception:  # noqa: BLE001, S112  its parser raises anything at all: see above
                continue
        plain = HeaderRegistry(use_default_map=False)
        try:
            return plain(name, value)
        except Exception:  # noqa: BLE001  as above
            return plain(name, value.replace("=?", "= ?"))  # which has no encoded-word left


# Where the line ends are those of lines, and not bytes of a file
_TEXT: Final = ("text", "multipart")  # one without its boundary is text


class _LocalMessage(EmailMessage):
    """A message, or a part of one, whose text has LF line ends, encoded or not."""

    def set_payload(self, payload: Any, charset: Any = None) -> None:
        """Set the payload; the parser calls this with a text as it came."""
        if isinstance(payload, str) and self.get_content_maintype() in _TEXT:
            payload = payload.replace("\r\n", "\n")
        super().set_payload(payload, charset)

    def get_content(self, *args: Any, **keywords: Any) -> Any:
        """Return the decoded content: a `str` if it is text."""
        content = super().get_content(*args, **keywords)
        return content.replace("\r\n", "\n") if isinstance(content, str) else content


def parse_email(data: bytes) -> EmailMessage:
    """Return the message in `data`, parsed like `email.policy.default`.

    A field that this policy cannot parse is text without structure; a malformed Content-Type loses
    its parameters. Text has LF line ends; attachments other than text keep their bytes.
    """
    policy = EmailPolicy(header_factory=_Fields(), message_factory=_LocalMessage)
    return message_from_bytes(data, policy=policy)
