"""The readable content of a message: its subject, text, HTML, links, codes and attachments.

Any bytes at all can be read, in time and memory proportional to their number. Nothing here imports
the rest of ehlo, nor anything but the standard library.
"""

from __future__ import annotations

from ehlo.content.breather import Breather
from ehlo.content.codes import Code
from ehlo.content.links import Link
from ehlo.content.summary import Mailbox, Summary, summarize
from ehlo.content.view import Attachment, Content, read_content

__all__ = [
    "Attachment",
    "Breather",
    "Code",
    "Content",
    "Link",
    "Mailbox",
    "Summary",
    "read_content",
    "summarize",
]
