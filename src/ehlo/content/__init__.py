"""The readable content of a message: its subject, text, HTML and attachments.

Any bytes at all can be read, in time and memory proportional to their number. Nothing here imports
the rest of ehlo, nor anything but the standard library.
"""

from __future__ import annotations

from ehlo.content.view import Attachment, Content, read_content

__all__ = ["Attachment", "Content", "read_content"]
