"""`MailParams` and `RcptParams`: the types of what the parsers of the extensions return."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, get_type_hints, is_typeddict

import pytest

from ehlo import (
    Address,
    DeliverBy,
    Handler,
    MailParams,
    OriginalRecipient,
    RcptParams,
    Rrvs,
    Session,
)
from ehlo.protocol.extensions import TABLE, rows

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ON: dict[str, bool | str] = {"DELIVERBY": True, "FUTURERELEASE": "9999"}
LATER = datetime(2026, 1, 1, 1, tzinfo=UTC)

VALUES: dict[str, tuple[str | None, object]] = {
    "SIZE": ("1000", 1000),
    "BODY": ("8bitmime", "8BITMIME"),
    "SMTPUTF8": (None, True),
    "RET": ("hdrs", "HDRS"),
    "ENVID": ("a+2Bb", "a+b"),
    "AUTH": ("a@example.com", "a@example.com"),
    "REQUIRETLS": (None, True),
    "BY": ("60;R", DeliverBy(60, "R", trace=False)),
    "HOLDFOR": ("60", 60),
    "HOLDUNTIL": ("2026-01-01T01:00:00Z", LATER),
    "MT-PRIORITY": ("-3", -3),
    "NOTIFY": ("success,delay", frozenset({"SUCCESS", "DELAY"})),
    "ORCPT": ("rfc822;b@example.com", OriginalRecipient("rfc822", "b@example.com")),
    "RRVS": ("2026-01-01T01:00:00Z", Rrvs(LATER, "R")),
}


def hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, localns={"datetime": datetime})


def test_they_have_the_parameters_of_all_extensions_and_no_others() -> None:
    assert hints(MailParams).keys() == {name for row in TABLE for name in row.mail}
    assert hints(RcptParams).keys() == {name for row in TABLE for name in row.rcpt}
    for kind in (MailParams, RcptParams):
        assert is_typeddict(kind)
        assert not kind.__required_keys__


@pytest.mark.parametrize("keyword", VALUES)
def test_a_value_has_the_type_that_it_is_said_to_have(keyword: str) -> None:
    text, value = VALUES[keyword]
    parsers = {
        name: parse
        for row in rows(ON, (), lambda: NOW)
        for name, parse in (*row.mail.items(), *row.rcpt.items())
    }
    assert parsers[keyword](text) == value
    hint = (hints(MailParams) | hints(RcptParams))[keyword]
    options: Any = getattr(hint, "__args__", ())
    if isinstance(hint, type):
        assert type(value) is hint
    elif isinstance(value, frozenset):
        assert hint.__origin__ is frozenset
        assert value <= set(options[0].__args__)
    else:
        assert value in options


class Annotated(Handler):
    """Type checkers take the annotation of a mapping, too."""

    def on_mail(self, session: Session, sender: Address, params: Mapping[str, Any]) -> None: ...

    def on_rcpt(self, session: Session, recipient: Address, params: Mapping[str, Any]) -> None: ...
