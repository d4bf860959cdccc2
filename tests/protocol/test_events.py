"""Events are values: equal when kind and fields are, true, and unchangeable."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from ehlo.protocol import events
from ehlo.protocol.events import Event

KINDS = [
    kind
    for kind in vars(events).values()
    if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event
]
FIELDLESS = [kind for kind in KINDS if not dataclasses.fields(kind)]  # type: ignore[arg-type]  # of dataclasses


def test_two_kinds_of_events_are_never_equal() -> None:
    data: object = events.Data()
    assert data != events.Reset()
    for one, other in itertools.permutations(FIELDLESS, 2):
        assert one() != other()
    hello: object = events.Hello("a", esmtp=True)
    assert hello != events.Vrfy("a", smtputf8=True)
    chunk: object = events.BodyChunk(b"a")
    assert chunk != (b"a",)


def test_an_event_is_equal_to_one_with_the_same_fields() -> None:
    assert events.BodyChunk(b"a") == events.BodyChunk(b"a")
    assert events.BodyChunk(b"a") != events.BodyChunk(b"b")
    assert hash(events.Close()) == hash(events.Close(linger=False))


@pytest.mark.parametrize("kind", FIELDLESS)
def test_an_event_without_fields_is_true(kind: type[Event]) -> None:
    assert bool(kind())


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_is_frozen_and_slotted(kind: type[Event]) -> None:
    assert "__dict__" not in dir(kind)
    event = object.__new__(kind)
    with pytest.raises((AttributeError, TypeError)):
        event.anything = 1  # type: ignore[attr-defined]  # that is what is tested
