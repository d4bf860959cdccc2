"""`Faults`: which rule strikes when, and what is wrong with a rule. No server is involved."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ehlo import Address, Disconnect, Fault, Faults, Reply
from ehlo.faults import Stage, Verdict
from ehlo.faults.fault import STAGES

GREYLISTED = Reply(450, "4.2.1", "Greylisted")
NOTHING = Verdict()


def struck(faults: Faults, times: int, at: Stage = "rcpt", **mail: Any) -> str:
    """Strike so often; return `x` for each strike that does something, and `.` for the others."""
    found = [faults.strike(at, **mail) for _ in range(times)]
    return "".join("." if verdict == NOTHING else "x" for verdict in found)


# -- when ------------------------------------------------------------------------------------------


def test_without_rules_nothing_happens() -> None:
    assert [Faults().strike(stage) for stage in STAGES] == [NOTHING] * len(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_rule_strikes_once_at_its_stage_and_at_no_other(stage: Stage) -> None:
    faults = Faults()
    fault = faults.fail(stage, "450 4.2.1 Greylisted")
    for other in STAGES:
        expected = Verdict(0.0, GREYLISTED) if other == stage else NOTHING
        assert faults.strike(other) == expected
        assert faults.strike(other) == NOTHING
    assert fault.used == 1


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ({}, "x......."),
        ({"times": 3}, "xxx....."),
        ({"times": None}, "xxxxxxxx"),
        ({"after": 2}, "..x....."),
        ({"times": 2, "after": 3}, "...xx..."),
        ({"times": None, "after": 6}, "......xx"),
        ({"probability": 0.0}, "........"),
        ({"probability": 1}, "x......."),
    ],
)
def test_times_and_after_count_what_the_rule_is_for(when: Any, expected: str) -> None:
    faults = Faults()
    fault = faults.fail("rcpt", **when)
    assert struck(faults, 8) == expected
    assert fault.used == expected.count("x")


def test_a_seed_makes_the_same_faults_whatever_other_rules_do() -> None:
    def run(seed: int, others: int) -> str:
        faults = Faults(seed=seed)
        faults.fail("rcpt", times=None, probability=0.5)
        for _ in range(others):
            faults.fail("rcpt", times=None, probability=0.5)
            faults.delay("mail", 1, times=None, probability=0.5)
        found = []
        for _ in range(40):
            faults.strike("mail")
            found.append(faults.strike("rcpt"))
            if others:
                faults.strike("mail")
        (first, *_) = faults
        return f"{first.used} {''.join('x' if verdict.action else '.' for verdict in found)}"

    assert run(7, 0) == run(7, 0)
    assert run(7, 0).split()[0] == run(7, 3).split()[0]
    assert run(7, 0) != run(8, 0)
    assert 5 < run(7, 0).count("x") < 35


def test_without_a_seed_there_is_one_to_write_down() -> None:
    faults = Faults()
    again = Faults(seed=faults.seed)
    for each in (faults, again):
        each.fail("rcpt", times=None, probability=0.5)
    assert struck(faults, 50) == struck(again, 50)
    assert f"seed={faults.seed}" in repr(faults)
    assert Faults().seed != Faults().seed


# -- which mail ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "recipient", "matches"),
    [
        ("a@example.com", "a@example.com", True),
        ("a@example.com", Address("a", "example.com"), True),
        ("a@example.com", "b@example.com", False),
        ("a@example.com", "a@example.org", False),
        ("a@example.com", "A@EXAMPLE.com", True),
        ("<A@Example.Com>", "a@example.com", True),
        (" a@example.com ", "a@example.com", True),
        ('"a"@example.com', "a@example.com", True),
        ("a b@example.com", Address("a b", "example.com"), True),
        ('"a b"@example.com', Address("A B", "example.com"), True),
        (r'"a\"b"@example.com', Address('a"b', "example.com"), True),
        ('"a@b"@example.com', Address("a@b", "example.com"), True),
        ("a@bücher.example", "a@xn--bcher-kva.example", True),
        ("a@example.com.", "a@example.com", True),
        ("a@[IPv6:::1]", "a@[ipv6:::1]", True),
        ("@example.com", "anybody@Example.COM", True),
        ("@example.com", "anybody@sub.example.com", False),
        ("postmaster", "Postmaster", True),
        ("postmaster", "postmaster@example.com", False),
        ("a", "a@a", False),
        ("", "a@example.com", False),
        ("@", "a@example.com", False),
    ],
)
def test_an_address_is_the_same_in_each_spelling(
    to: str, recipient: str | Address, matches: bool
) -> None:
    for name, at in (("to", "rcpt"), ("mail_from", "mail")):
        faults = Faults()
        faults.fail(at, **{name: to})  # type: ignore[arg-type]  # names of one type
        assert faults.strike("rcpt", to="someone@else.example") == NOTHING
        verdict = faults.strike(at, **{name: recipient})  # type: ignore[arg-type]  # as above
        assert (verdict != NOTHING) is matches


def test_the_null_sender_is_the_empty_one() -> None:
    for spelling in ("", "<>"):
        faults = Faults()
        faults.fail("mail", mail_from=spelling, times=None)
        assert struck(faults, 1, "mail", mail_from="a@example.com") == "."
        assert struck(faults, 1, "mail", mail_from=Address("", "")) == "x"
        assert struck(faults, 1, "mail") == "."  # it is not known


def test_at_data_and_end_any_recipient_of_the_message_counts() -> None:
    faults = Faults()
    faults.fail("end", to="gone@example.com", times=None)
    assert struck(faults, 1, "end", to=["a@example.com", "b@example.com"]) == "."
    assert struck(faults, 1, "end", to=["a@example.com", "GONE@example.com"]) == "x"
    assert struck(faults, 1, "end", to=[]) == "."
    assert struck(faults, 1, "end") == "."


def test_what_a_rule_is_not_for_does_not_count() -> None:
    faults = Faults()
    faults.fail("rcpt", to="a@example.com", mail_from="@example.org", after=1)
    assert struck(faults, 5, to="b@example.com", mail_from="x@example.org") == "....."
    assert struck(faults, 5, to="a@example.com", mail_from="x@example.com") == "....."
    assert struck(faults, 3, to="a@example.com", mail_from="x@example.org") == ".x."


# -- what ------------------------------------------------------------------------------------------


def test_delays_add_up_and_the_first_rule_that_rejects_or_drops_decides() -> None:
    faults = Faults()
    faults.delay("rcpt", 1.5, times=2)
    faults.delay("rcpt", 2)
    faults.fail("rcpt", GREYLISTED)
    faults.delay("rcpt", 4)
    dropped = faults.drop("rcpt")
    assert faults.strike("rcpt") == (3.5, GREYLISTED, {})
    assert dropped.used == 0
    delay, action, _ = faults.strike("rcpt")
    assert (delay, type(action)) == (5.5, Disconnect)
    assert faults.strike("rcpt") == NOTHING


def test_after_counts_what_other_rules_have_rejected() -> None:
    faults = Faults()
    greylisted = faults.fail("rcpt", "450 4.2.1 Greylisted", times=2, to="a@example.com")
    lost = faults.drop("rcpt", after=3)
    behind = faults.fail("rcpt", "550 5.1.1 Last")
    recipients = ["a@x.test", "a@example.com", "a@example.com", "b@x.test", "b@x.test"]
    found = [faults.strike("rcpt", to=each).action for each in recipients]
    assert [fault.used for fault in (greylisted, lost, behind)] == [2, 1, 1]
    assert [type(each).__name__ for each in found] == [
        *("Reply", "Reply", "Reply", "Disconnect", "NoneType")
    ]
    assert str(found[0]) == "550 5.1.1 Last"


def test_a_script_answers_each_message_in_turn_and_then_runs_out() -> None:
    faults = Faults()
    script = faults.script("450 4.2.1 Greylisted", "250", Disconnect(), "550 No", "250 2.0.0 Ok")
    behind = faults.fail("end", "554 5.0.0 Behind", times=None)
    found = [faults.strike("end").action for _ in range(7)]
    behind_it = behind.replies[0]
    assert found[:2] == [GREYLISTED, None]
    assert isinstance(found[2], Disconnect)
    assert [str(each) for each in found[3:4]] == ["550 5.0.0 No"]
    assert found[4:] == [None, behind_it, behind_it]
    assert (script.used, behind.used) == (5, 2)


def test_a_script_may_be_for_some_messages_only() -> None:
    faults = Faults()
    faults.script("450 No", "250", to="a@example.com", mail_from="@example.org")
    mail = {"to": ["a@example.com"], "mail_from": "x@example.org"}
    assert struck(faults, 3, "end", to=["b@example.com"], mail_from="x@example.org") == "..."
    assert struck(faults, 3, "end", **mail) == "x.."


def test_with_each_a_rule_for_a_recipient_rejects_for_that_one_only() -> None:
    faults = Faults()
    faults.fail("end", "550 5.1.1 Gone", to="gone@example.com", times=None)
    faults.fail("end", "452 4.2.2 Full", to="full@example.com", times=None)
    faults.fail("end", "450 4.0.0 Twice", to="gone@example.com", times=None)
    gone, full = Reply(550, "5.1.1", "Gone"), Reply(452, "4.2.2", "Full")

    def end(*to: str) -> Verdict:
        return faults.strike("end", to=to, each=True)

    assert end("a@example.com", "Gone@example.com") == (0.0, None, {"Gone@example.com": gone})
    assert end("a@x.test", "gone@example.com", "full@example.com") == (
        *(0.0, None),
        {"gone@example.com": gone, "full@example.com": full},
    )
    assert end("gone@example.com") == (0.0, gone, {})
    assert end("gone@example.com", "GONE@example.com") == (0.0, gone, {})
    assert end("gone@example.com", "full@example.com") == (0.0, full, {"gone@example.com": gone})
    assert faults.strike("end", to=["a@x.test", "gone@example.com"]).action == gone


def test_with_each_a_drop_is_for_all() -> None:
    faults = Faults()
    faults.drop("end", to="gone@example.com")
    verdict = faults.strike("end", to=["a@example.com", "gone@example.com"], each=True)
    assert isinstance(verdict.action, Disconnect)


# -- the rules themselves --------------------------------------------------------------------------


def test_rules_are_a_sequence_and_can_be_removed() -> None:
    faults = Faults()
    first, second, third = faults.fail("mail"), faults.drop("rcpt"), faults.delay("data", 1)
    assert list(faults) == [first, second, third]
    assert (len(faults), faults[1], faults[-1]) == (3, second, third)
    assert faults[:2] == (first, second)
    assert second in faults
    second.remove()
    second.remove()
    assert list(faults) == [first, third]
    assert faults.strike("rcpt") == NOTHING
    faults.clear()
    assert not faults
    third.remove()
    assert faults.strike("data") == NOTHING


def test_a_rule_that_was_made_alone_removes_nothing() -> None:
    Fault(kind="drop", stage="mail", replies=(Disconnect(),)).remove()


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda it: it.fail("rcpt"), "fail('rcpt', '451 4.3.0 Try later')"),
        (
            lambda it: it.fail("rcpt", "550 No", to="a@x", mail_from="", times=None, after=1),
            "fail('rcpt', '550 5.0.0 No', times=None, after=1, to='a@x', mail_from='')",
        ),
        (lambda it: it.drop("end", probability=0.25), "drop('end', probability=0.25)"),
        (lambda it: it.delay("data", 2.0, times=3), "delay('data', 2, times=3)"),
        (
            lambda it: it.script("450 Later", "250", Disconnect()),
            "script('450 4.0.0 Later', '250', 'drop')",
        ),
        (lambda it: it.script("250", to="a@x"), "script('250', to='a@x')"),
    ],
)
def test_a_rule_is_shown_as_the_call_that_made_it(
    make: Callable[[Faults], Fault], shown: str
) -> None:
    faults = Faults()
    fault = make(faults)
    assert str(fault) == f"{shown}, used 0 times"
    for _ in range(3):
        fault.strike()
    assert re.search(r", used (once|\d times)$", str(fault))
    assert repr(fault) == f"<Fault {fault}>"
    assert str(fault) in repr(faults)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda it: it.fail("recipient"), r"at is 'recipient'; it must be one of connect, helo"),
        (
            lambda it: it.fail("rcpt", "250 Ok"),
            r"reply is '250 Ok', which accepts; use a 4xx",
        ),
        (lambda it: it.fail("rcpt", "no"), r"reply is 'no'; write a code and a text: \"451 4.3.0"),
        (lambda it: it.fail("rcpt", 550), "reply is 550; write a code and a text"),
        (lambda it: it.fail("rcpt", "٤٥٠ No"), "write a code and a text"),
        (lambda it: it.fail("rcpt", "650 No"), "reply is '650 No': code is 650; it must be from"),
        (lambda it: it.fail("rcpt", "100 No"), "reply is '100 No': code is 100; it must be from"),
        (lambda it: it.fail("rcpt", "550 a\x00b"), "text has control characters"),
        (lambda it: it.fail("rcpt", "550 4.0.0 No"), "enhanced is '4.0.0'"),
        (lambda it: it.fail("rcpt", times=0), "times is 0; it must be 1 or more, or None"),
        (lambda it: it.fail("rcpt", times=True), "times is True"),
        (lambda it: it.fail("rcpt", times=1.5), "times is 1.5"),
        (lambda it: it.fail("rcpt", after=-1), "after is -1; it must be 0 or more"),
        (lambda it: it.fail("rcpt", probability=1.1), "probability is 1.1; it must be from 0 to 1"),
        (lambda it: it.fail("rcpt", probability=float("nan")), "probability is nan"),
        (lambda it: it.fail("rcpt", probability="1"), "probability is '1'"),
        (
            lambda it: it.fail("mail", to="a@x"),
            "to is not known at mail; leave it out, or use rcpt",
        ),
        (lambda it: it.drop("auth", mail_from="a@x"), "mail_from is not known at auth; leave it"),
        (lambda it: it.drop("rcpt", to=5), "to is 5; it must be an address, or @domain"),
        (lambda it: it.delay("rcpt", 0), "seconds is 0; it must be a number over 0"),
        (lambda it: it.delay("rcpt", -1), "seconds is -1"),
        (lambda it: it.delay("rcpt", float("inf")), "seconds is inf"),
        (lambda it: it.delay("rcpt", True), "seconds is True"),
        (lambda it: it.delay("rcpt", "1"), "seconds is '1'"),
        (lambda it: it.script(), "script has no replies; write script"),
        (lambda it: it.script("250", "maybe"), "reply is 'maybe'"),
    ],
)
def test_what_makes_no_sense_is_an_error_that_names_it(
    make: Callable[[Any], object], message: str
) -> None:
    faults = Faults()
    with pytest.raises(ValueError, match=message):
        make(faults)
    assert not faults


def test_an_unknown_keyword_is_a_type_error() -> None:
    faults: Any = Faults()
    for make in (faults.fail, faults.drop):
        name = make.__name__
        with pytest.raises(
            TypeError, match=rf"^{name}\(\) has no keyword time; write times, after"
        ):
            make("rcpt", time=2)
    with pytest.raises(
        TypeError, match=r"^delay\(\) has no keyword sender; write times, after, to"
    ):
        faults.delay("rcpt", 1, sender="a@x")
    with pytest.raises(TypeError, match=r"^script\(\) has no keyword times; write to, mail_from$"):
        faults.script("250", times=2)


# -- threads ---------------------------------------------------------------------------------------


def test_strikes_of_many_threads_are_counted_while_others_add_and_remove_rules() -> None:
    faults = Faults()
    counted = faults.fail("rcpt", times=700, to="a@example.com")
    struck_by: list[int] = []
    ended = threading.Event()

    def change() -> None:
        while not ended.is_set():
            fault = faults.fail("mail", times=random.choice([None, 1]))  # noqa: S311  no secret
            faults.strike("mail")
            fault.remove()

    def strike() -> None:
        found = [faults.strike("rcpt", to="a@example.com").action for _ in range(200)]
        struck_by.append(sum(action is not None for action in found))

    changing = [threading.Thread(target=change) for _ in range(2)]
    striking = [threading.Thread(target=strike) for _ in range(8)]
    for thread in (*changing, *striking):
        thread.start()
    for thread in striking:
        thread.join()
    ended.set()
    for thread in changing:
        thread.join()
    assert sum(struck_by) == counted.used == 700
    assert list(faults) == [counted]


# -- files -----------------------------------------------------------------------------------------

FILE = """
seed = 7

[[fault]]
at = "rcpt"
reply = "450 4.2.1 Greylisted"
times = 2
to = "a@example.com"

[[fault]]
at = "data"
delay = 1.5
times = 0
mail_from = ""

[[fault]]
at = "end"
drop = true
probability = 0.5
after = 3

[[fault]]
script = ["451 4.3.0 Try later", "250"]
to = "@example.com"
"""


def test_a_file_has_the_rules_and_the_seed(tmp_path: Path) -> None:
    (tmp_path / "faults.toml").write_text(FILE)
    faults = Faults.load(tmp_path / "faults.toml")
    assert faults.seed == 7
    assert [str(fault).rpartition(",")[0] for fault in faults] == [
        "fail('rcpt', '450 4.2.1 Greylisted', times=2, to='a@example.com')",
        "delay('data', 1.5, times=None, mail_from='')",
        "drop('end', after=3, probability=0.5)",
        "script('451 4.3.0 Try later', '250', to='@example.com')",
    ]


def test_an_empty_file_has_no_rules(tmp_path: Path) -> None:
    (tmp_path / "faults.toml").write_text("")
    assert not Faults.load(str(tmp_path / "faults.toml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[fault]]\nat = rcpt\n", r"not TOML: .*line 2"),
        ("\xff", "not UTF-8 at byte 0; save the file as UTF-8"),
        ("seed = -1", "seed is -1; it must be a whole number of 0 or more"),
        ("seed = 'x'", "seed is 'x'"),
        ("[[faults]]\nat = 'rcpt'", r"faults is unknown; the file has seed and \[\[fault\]\]"),
        ("[fault]\nat = 'rcpt'", r"fault is not a list of tables; write \[\[fault\]\] above each"),
        ("fault = [1]", "fault is not a list of tables"),
        ("[[fault]]\nat = 'rcpt'", "fault 1: it does nothing; write one of reply, delay, drop"),
        (
            "[[fault]]\nat = 'rcpt'\ndrop = true\n[[fault]]\nat = 'mail'\nreply = '4'\ndelay = 1",
            "fault 2: reply and delay cannot be combined; write one of",
        ),
        ("[[fault]]\nreply = '450 No'", "fault 1: at is missing; write one of connect, helo"),
        ("[[fault]]\nat = 'to'\nreply = '450 No'", "fault 1: at is 'to'; it must be one of"),
        ("[[fault]]\nat = []\nreply = '450 No'", r"fault 1: at is \[\]; it must be one of"),
        (
            "[[fault]]\nat = 'rcpt'\nreply = '450 No'\ntime = 2",
            "fault 1: time is unknown with reply; write at, times, after, to",
        ),
        (
            "[[fault]]\nat = 'end'\nscript = ['250']",
            "at is unknown with script; write to, mail_from",
        ),
        ("[[fault]]\nscript = '250'", r"script is '250'; write a list: \[\"450 4.2.1 Later\""),
        ("[[fault]]\nscript = [250]", "fault 1: reply is 250; write a code and a text"),
        ("[[fault]]\nat = 'end'\ndrop = false", "drop is False; write drop = true, or leave it"),
        ("[[fault]]\nat = 'end'\ndelay = '2'", "fault 1: seconds is '2'; it must be a number"),
        ("[[fault]]\nat = 'end'\nreply = 450", "fault 1: reply is 450; write a code and a text"),
        ("[[fault]]\nat = 'end'\nreply = '450 No'\ntimes = -1", "fault 1: times is -1"),
        ("[[fault]]\nat = 'mail'\nreply = '450 No'\nto = 'a@x'", "fault 1: to is not known at"),
    ],
)
def test_an_error_in_a_file_names_the_line_or_the_rule(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "faults.toml").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        Faults.load(tmp_path / "faults.toml")


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Faults.load(tmp_path / "none.toml")
