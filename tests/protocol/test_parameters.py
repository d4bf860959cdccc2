"""What is offered by option: rows, values of their parameters, and the table of a server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ehlo.protocol import extensions
from ehlo.protocol.extensions import EXTENSIONS, Extension
from ehlo.protocol.parameters import DeliverBy, ExtensionError, Facts, Rrvs, date_time
from ehlo.protocol.reply import Reply
from ehlo.protocol.settings import Settings
from support.dialogue import CorePlayer, Rules

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def table(*own: Extension, **wanted: bool | str) -> Settings:
    named = {name.replace("_", "-"): choice for name, choice in wanted.items()}
    return Settings(extensions=extensions.rows(named, own, lambda: NOW))


def no_failure(error: Exception) -> None:
    pytest.fail(str(error))


def said(settings: Settings, *, tls: bool = False) -> list[str]:
    """The lines of EHLO behind the first."""
    return settings.offers.lines(Facts(settings, tls=tls, mechanisms=()), no_failure)


def reply(settings: Settings, *, tls: bool = False) -> Reply | None:
    facts = Facts(settings, tls=tls, mechanisms=())
    return settings.offers.reply(tls, lambda: facts, no_failure)


DEFAULT = said(Settings())


def offered(settings: Settings, *, tls: bool = False) -> list[str]:
    """The settings that differ from the default."""
    return [line for line in said(settings, tls=tls) if line not in DEFAULT]


def test_lines_are_made_once_for_each_kind_of_client_unless_the_user_makes_them() -> None:
    asked: list[bool] = []

    def offer(facts: Facts) -> bool:
        asked.append(facts.tls)
        return len(asked) % 2 > 0

    def lines(settings: Settings, *, tls: bool) -> str:
        made = reply(settings, tls=tls)
        return "" if made is None else made.text

    own = table(Extension("XNEW", 0, offered=offer), REQUIRETLS=True)
    assert ["XNEW" in lines(own, tls=False) for _ in range(4)] == [True, False, True, False]
    assert asked == [False] * 4
    timed = table(FUTURERELEASE="3600")
    assert reply(timed) is not reply(timed)
    fixed = table(Extension("XOLD", 0), REQUIRETLS=True)
    for tls in (False, True, False, True):
        assert ("REQUIRETLS" in lines(fixed, tls=tls)) == tls
    assert fixed.offers.reply(True, pytest.fail, no_failure) is not None
    assert reply(Settings(extensions=())) is None


def test_a_row_that_fails_is_left_out() -> None:
    error, errors = ExtensionError("of X-BAD"), list[ExtensionError]()

    def fail(_facts: Facts) -> str:
        raise error

    settings = table(Extension("X-BAD", 0, argument=fail), Extension("X-GOOD", 0))
    lines = settings.offers.lines(Facts(settings, tls=False, mechanisms=()), errors.append)
    assert (lines, errors) == ([*DEFAULT, "X-GOOD"], [error])


# -- the table -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "lines"),
    [
        ({}, []),
        ({"DSN": True}, ["DSN"]),
        ({"dsn": True, "limits": True}, ["DSN", "LIMITS MAILMAX=1000 RCPTMAX=100"]),
        ({"REQUIRETLS": True}, []),
        ({"DELIVERBY": True}, ["DELIVERBY"]),
        ({"DELIVERBY": "240"}, ["DELIVERBY 240"]),
        ({"FUTURERELEASE": "3600"}, ["FUTURERELEASE 3600 2030-01-01T01:00:00Z"]),
        (
            {"FUTURERELEASE": "3600,2031-01-01T02:00:00+02:00"},
            ["FUTURERELEASE 3600 2031-01-01T00:00:00Z"],
        ),
        ({"MT_PRIORITY": True}, ["MT-PRIORITY"]),
        ({"MT_PRIORITY": "nsep"}, ["MT-PRIORITY NSEP"]),
        ({"RRVS": True, "SIZE": True}, ["RRVS"]),
        ({"DSN": False}, []),
    ],
)
def test_what_is_wanted_is_offered(wanted: dict[str, bool | str], lines: list[str]) -> None:
    assert offered(table(**wanted)) == lines


def test_requiretls_is_offered_under_tls() -> None:
    assert offered(table(REQUIRETLS=True), tls=True) == ["REQUIRETLS"]


@pytest.mark.parametrize("keyword", [row.keyword for row in EXTENSIONS])
def test_every_extension_can_be_switched_off(keyword: str) -> None:
    settings = table(**{keyword.replace("-", "_"): False})
    assert keyword not in [line.partition(" ")[0] for line in said(settings, tls=True)]
    assert settings.mail_params.keys() == Settings().mail_params.keys()


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"BURL": True}, "no such extension: BURL"),
        ({"DSN": "x"}, "DSN=x: takes no argument"),
        ({"SIZE": "1000"}, "SIZE=1000: takes no argument"),
        ({"STARTTLS": 0}, "STARTTLS is 0; it must be True, False or text"),
        ({"DSN": None}, "DSN is None; it must be True, False or text"),
        ({"DELIVERBY": "soon"}, "DELIVERBY=soon: not a number"),
        ({"DELIVERBY": "-1"}, "DELIVERBY=-1: not a number"),
        ({"FUTURERELEASE": True}, "FUTURERELEASE=: not a number"),
        ({"FUTURERELEASE": "0"}, "FUTURERELEASE=0: not a number"),
        ({"FUTURERELEASE": "60 tomorrow"}, "FUTURERELEASE=60 tomorrow: not a date-time"),
        ({"MT_PRIORITY": "HIGH"}, "MT-PRIORITY=HIGH: none of MIXER, STANAG4406, NSEP"),
    ],
)
def test_what_cannot_be_offered_is_named(wanted: dict[str, bool | str], message: str) -> None:
    with pytest.raises(ValueError, match=f"^extensions: {message}"):
        table(**wanted)


def test_what_is_no_limit_is_not_told() -> None:
    rows = extensions.rows({"LIMITS": True}, (), lambda: NOW)
    settings = Settings(
        extensions=rows, max_messages=0, max_recipients=1_000_000, max_recipient_domains=7
    )
    assert said(settings)[-1] == "LIMITS RCPTDOMAINMAX=7"


def test_by_how_much_command_lines_grow() -> None:
    base = Settings().command_limit
    everything = table(
        **dict.fromkeys(("DSN", "REQUIRETLS", "DELIVERBY", "MT_PRIORITY", "RRVS", "LIMITS"), True),
        FUTURERELEASE="60",
    )
    assert everything.command_limit == base + 11 + 17 + 34 + 15 + 33


def test_a_core_without_any_extension_knows_no_parameter() -> None:
    player = CorePlayer(Settings(extensions=()), Rules())
    player.feed(b"EHLO c\r\nVRFY b SMTPUTF8\r\nMAIL FROM:<a@x> SIZE=1\r\n")
    assert player.output.split(b"\r\n")[1:-1] == [
        b"250 localhost greets c",
        b"555 5.5.4 Unsupported parameter: SMTPUTF8",
        b"555 5.5.4 Unsupported parameter: SIZE",
    ]


# -- rows of a user's own --------------------------------------------------------------------------


def test_a_row_of_ones_own_stands_behind_the_others() -> None:
    settings = table(Extension("X-OWN", 0, argument=lambda _: "1 2", mail={"X-OWN": str}))
    assert said(settings) == [*DEFAULT, "X-OWN 1 2"]
    assert settings.mail_params["X-OWN"].parse("v") == "v"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([Extension("SIZE", 0)], "SIZE exists"),
        ([Extension("RRVS", 0)], "RRVS exists"),
        ([Extension("X", 0, mail={"BY": str})], "BY exists"),
        ([Extension("X", 0, rcpt={"NOTIFY": str})], "NOTIFY exists"),
        ([Extension("X", 0), Extension("X", 0)], "X exists"),
        ([Extension("x", 0)], "'x' is not a keyword in upper case"),
        ([Extension("X Y", 0)], "'X Y' is not a keyword in upper case"),
        ([Extension("X", 0, mail={"low": str})], "'low' is not a keyword in upper case"),
        ([Extension("X", 0, rcpt={"": str})], "'' is not a keyword in upper case"),
    ],
)
def test_a_row_that_cannot_stand_with_the_others_is_named(
    rows: list[Extension], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^own_extensions: {message}"):
        table(*rows)


# -- values ----------------------------------------------------------------------------------------

ALL = table(
    **dict.fromkeys(("REQUIRETLS", "MT_PRIORITY", "RRVS"), True),
    DELIVERBY="60",
    FUTURERELEASE="3600",
)


def parse(keyword: str, value: str | None) -> Any:
    return {**ALL.mail_params, **ALL.rcpt_params}[keyword].parse(value)


@pytest.mark.parametrize(
    ("keyword", "value", "typed"),
    [
        ("REQUIRETLS", None, True),
        ("BY", "60;R", DeliverBy(60, "R", trace=False)),
        ("BY", "+000000061;rt", DeliverBy(61, "R", trace=True)),
        ("BY", "0;N", DeliverBy(0, "N", trace=False)),
        ("BY", "-999999999;NT", DeliverBy(-999_999_999, "N", trace=True)),
        ("HOLDFOR", "1", 1),
        ("HOLDFOR", "3600", 3600),
        ("HOLDUNTIL", "2030-01-01T00:00:01Z", NOW + timedelta(seconds=1)),
        ("HOLDUNTIL", "2030-01-01t00:00:00.25z", NOW + timedelta(seconds=0.25)),
        ("HOLDUNTIL", "2030-01-01T01:00:00Z", NOW + timedelta(hours=1)),
        *(("MT-PRIORITY", str(value), value) for value in range(-9, 10)),
        ("RRVS", "2030-01-01T00:00:00Z", Rrvs(NOW, "R")),
        ("RRVS", "2030-01-01T01:30:00+01:30;c", Rrvs(NOW, "C")),
        ("RRVS", "2029-12-31T23:00:00-01:00;R", Rrvs(NOW, "R")),
    ],
)
def test_values_that_parameters_have(keyword: str, value: str | None, typed: object) -> None:
    assert parse(keyword, value) == typed


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("REQUIRETLS", "yes"),
        *(("BY", value) for value in (None, "60", ";R", "60;", "60;T", "60;RR", "60;RTT", "6 0;R")),
        *(("BY", value) for value in ("59;R", "0;R", "-60;R", "1000000000;N", "--1;N", "١;N")),
        *(("HOLDFOR", value) for value in (None, "0", "060", "3601", "-1", "+1", "1000000000")),
        *(("HOLDUNTIL", value) for value in (None, "2030-01-01T00:00:00Z", "2030-01-01T01:00:01Z")),
        *(("HOLDUNTIL", value) for value in ("2030-01-01T00:30:00+00:00", "3600", "1-1-1T0:0:0Z")),
        *(("MT-PRIORITY", value) for value in (None, "10", "-10", "+1", "-0", "00", "01", "²")),
        *(("RRVS", value) for value in (None, "", ";C", "2030-01-01;C", "2030-01-01T00:00:00Z;")),
        ("RRVS", "2030-01-01T00:00:00.5Z"),
        *(("RRVS", f"2030-01-01T00:00:00Z;{action}") for action in ("X", "CR", "C;R")),
    ],
)
def test_values_that_parameters_cannot_have(keyword: str, value: str | None) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  each has its own words, which no client sees
        parse(keyword, value)


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("2014-04-03T23:01:00Z", datetime(2014, 4, 3, 23, 1, tzinfo=UTC)),
        ("2014-04-03T23:01:00-00:00", datetime(2014, 4, 3, 23, 1, tzinfo=UTC)),
        ("2014-04-04T01:01:00+02:00", datetime(2014, 4, 3, 23, 1, tzinfo=UTC)),
        ("2014-04-03T00:01:00-23:00", datetime(2014, 4, 3, 23, 1, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("2014-04-03T23:01:00.1234567Z", datetime(2014, 4, 3, 23, 1, 0, 123456, tzinfo=UTC)),
        ("9999-12-31T23:59:59Z", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_a_date_time_is_in_utc(text: str, date: datetime) -> None:
    found = date_time(text)
    assert found == date
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        *("", "2014-04-03", "2014-04-03T23:01:00", "2014-04-03 23:01:00Z", "20140403T230100Z"),
        *("2014-13-01T00:00:00Z", "2014-02-29T00:00:00Z", "2014-01-01T24:00:00Z"),
        *("2014-01-01T00:60:00Z", "2014-01-01T00:00:61Z", "0000-01-01T00:00:00Z"),
        *("2014-01-01T00:00:00+24:00", "2014-01-01T00:00:00+01:60", "2014-01-01T00:00:00.Z"),
        *("0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01", "２014-01-01T00:00:00Z"),
    ],
)
def test_what_is_no_date_time(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  each has its own words, which no client sees
        date_time(text)
