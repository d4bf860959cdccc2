"""Each option: its type, default and description, and what may be set where."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

from ehlo import Server
from ehlo.server.options.config import Options, check_bounds, descriptions
from support.serving import Box

OPTIONS = [field for field in dataclasses.fields(Options) if field.metadata]


@pytest.mark.parametrize("field", OPTIONS, ids=lambda field: field.name)
def test_each_option_has_a_description(field: dataclasses.Field[Any]) -> None:
    text = descriptions()[field.name]
    assert text.endswith(".")
    assert text[0].isupper() or text.startswith("`")
    is_switch = field.default is False
    verbs = ("Accept", "Enable", "Log", "Reject", "Require", "Resolve", "Speak", "Start", "Treat")
    assert text.startswith(verbs) or not is_switch


def test_there_are_no_descriptions_without_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_source(_module: object) -> str:
        raise OSError("could not get source code")

    monkeypatch.setattr(inspect, "getsource", no_source)
    assert descriptions() == {}


def test_options_are_frozen() -> None:
    options = Options(Box())
    with pytest.raises(dataclasses.FrozenInstanceError, match="max_size"):
        options.max_size = 1  # type: ignore[misc]  # which is the point
    assert dataclasses.replace(options, max_size=1).max_size == 1


def test_the_old_spelling_of_a_value_is_accepted() -> None:
    old: Any = "normalise"
    assert Options(Box(), bare_newlines=old).bare_newlines == "normalize"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_size", -1, "max_size is -1; it must be 0 or more"),
        ("max_recipients", 0, "max_recipients is 0; it must be more than 0"),
        ("timeout", float("nan"), "timeout is nan; it must be more than 0"),
        ("grace", -0.5, "grace is -0.5; it must be 0 or more"),
        ("tls_required", None, "tls_required is None; it must be True or False"),
        ("auth_required", 0, "auth_required is 0; it must be True or False"),
        ("strict_eol", "no", "strict_eol is 'no'; it must be True or False"),
    ],
)
def test_a_number_outside_its_bound_is_a_value_error(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_bounds(Options(Box(), **{name: value}))


def test_every_number_has_a_bound() -> None:
    numbers = [field for field in OPTIONS if field.type in ("int", "float", "float | None")]
    assert len(numbers) > 15
    assert all(field.metadata["bound"] for field in numbers)


def test_the_signature_of_server_has_each_option_with_its_default() -> None:
    parameters = inspect.signature(Server).parameters
    assert list(parameters) == ["handler", *(field.name for field in OPTIONS)]
    assert all(parameters[field.name].default is field.default for field in OPTIONS)
    assert all(parameters[field.name].kind is inspect.Parameter.KEYWORD_ONLY for field in OPTIONS)
