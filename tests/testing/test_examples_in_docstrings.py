"""The examples in the docstrings of `ehlo.testing` work as they are written."""

from __future__ import annotations

import doctest
from collections.abc import Iterator

import pytest

import ehlo.testing


def examples() -> Iterator[doctest.DocTest]:
    for name in ehlo.testing.__all__:
        for found in doctest.DocTestFinder().find(getattr(ehlo.testing, name), name):
            if found.examples:
                yield found


EXAMPLES = {each.name: each for each in examples()}


@pytest.mark.parametrize("name", ehlo.testing.__all__)
def test_a_public_name_has_an_example(name: str) -> None:
    assert name in EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_works(name: str) -> None:
    runner = doctest.DocTestRunner()
    assert runner.run(EXAMPLES[name]).failed == 0


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Outbox'"):
        _ = ehlo.testing.Outbox
    assert dir(ehlo.testing) == ehlo.testing.__all__
