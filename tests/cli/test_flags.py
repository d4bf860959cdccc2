"""The server's options as flags, made from `Options`."""

from __future__ import annotations

import click
import pytest

from ehlo.cli.flags import as_flags, options_of
from ehlo.cli.values import Choice
from ehlo.server.options.config import Options, descriptions

FLAGS = {each.name: each for each in options_of(Options) if isinstance(each, click.Option)}


@pytest.mark.parametrize("name", sorted(str(name) for name in FLAGS))
def test_the_help_of_a_flag_is_the_description_of_its_option(name: str) -> None:
    record = FLAGS[name].get_help_record(click.Context(click.Command("serve")))
    assert record is not None
    description, _, _ = descriptions()[name].replace("`", "").partition(" In Python")
    assert record[1].startswith(as_flags(description))


def test_the_help_of_a_flag_is_about_the_command_line() -> None:
    texts = {}
    for name, flag in FLAGS.items():
        record = flag.get_help_record(click.Context(click.Command("serve")))
        assert record is not None
        texts[name] = record[1]
        assert "In Python" not in record[1]
    assert "Rejections between accepted messages" in texts["max_idle_commands"]
    assert "plus --max-recipients (or --max-refused-recipients" in texts["max_idle_commands"]


@pytest.mark.parametrize(
    ("default", "end"),
    [(None, "By default, the value of --max-recipients."), (0, "when a transaction ends.  [0]")],
)
def test_the_default_of_a_command_is_shown_instead_of_that_of_the_option(
    default: int | None, end: str
) -> None:
    options = options_of(Options, max_refused_recipients=default)
    (flag,) = [each for each in options if each.name == "max_refused_recipients"]
    assert isinstance(flag, click.Option)
    record = flag.get_help_record(click.Context(click.Command("ehlo")))
    assert record is not None
    assert record[1].endswith(end)


def test_the_old_name_of_a_value_is_accepted() -> None:
    flag = FLAGS["bare_newlines"]
    context = click.Context(click.Command("serve"))
    assert isinstance(flag.type, Choice)
    assert flag.type.convert("normalise", flag, context) == "normalize"
    assert flag.type.convert("reject", flag, context) == "reject"
    with pytest.raises(click.BadParameter, match="normalize"):
        flag.type.convert("nonsense", flag, context)


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("max_size is -1; it must be 0 or more", "--max-size is -1; it must be 0 or more"),
        (
            "tls_required needs a certificate; set tls_cert and tls_key, or tls_config",
            "--tls-required needs a certificate; set --tls-cert and --tls-key",
        ),
        ("own_extensions has commands", "own_extensions has commands"),
    ],
)
def test_a_message_names_options_as_flags(text: str, flags: str) -> None:
    assert as_flags(text) == flags
