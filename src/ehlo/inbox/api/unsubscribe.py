"""The field List-Unsubscribe (RFC 2369, RFC 8058): its links, and what is wrong with it."""

from __future__ import annotations

import re
from typing import Final, TypedDict


class ListUnsubscribe(TypedDict):
    """How a recipient leaves a mailing list."""

    Header: str
    """The field List-Unsubscribe; empty without one."""
    Links: list[str]
    """The links in it."""
    Errors: str
    """What is wrong with it, in words; empty if nothing is."""
    HeaderPost: str
    """The field List-Unsubscribe-Post."""


_LINK: Final = re.compile(r"<([^<>]*)>")
_MOST_LINKS: Final = 100


def read_unsubscribe(header: str, post: str) -> ListUnsubscribe:
    """Return what the fields List-Unsubscribe and List-Unsubscribe-Post say."""
    found = [match[1].strip() for match in _LINK.finditer(header)][:_MOST_LINKS] if header else []
    links = [link for link in found if link]
    errors = [*_errors_of(header, links)] if header.strip() else []
    if post and post.strip().lower() != "list-unsubscribe=one-click":
        errors.append("List-Unsubscribe-Post must be List-Unsubscribe=One-Click")
    return {"Header": header, "Links": links, "Errors": "; ".join(errors), "HeaderPost": post}


def _errors_of(header: str, links: list[str]) -> list[str]:
    errors = []
    if not links:
        errors.append("no link in angle brackets")
    if any(re.search(r"\s", link) for link in links):
        errors.append("a link has spaces")
    kinds = [link.partition(":")[0].lower() for link in links]
    if kinds.count("mailto") > 1:
        errors.append("more than one mailto link")
    if sum(kind in ("http", "https") for kind in kinds) > 1:
        errors.append("more than one http link")
    if any(kind not in ("mailto", "http", "https") for kind in kinds):
        errors.append("a link is neither mailto nor http")
    between = [each.strip() for each in _LINK.split(header)[::2]] if links else []
    if any(each != "," for each in between[1:-1]) or any(between[:1] + between[-1:]):
        errors.append("links must be separated by commas, and nothing else")
    return errors
