"""Links and codes in mails as programs send them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from ehlo.content import Content, read_content


class Letter(NamedTuple):
    name: str
    codes: list[str]
    links: list[str]
    message: bytes


def letters() -> list[Letter]:
    text = (Path(__file__).parent / "letters.txt").read_text(encoding="utf-8")
    made = []
    for piece in text.split("==== ")[1:]:
        head, _, message = piece.partition("\n----\n")
        name, *lines = head.splitlines()
        expected = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
        data = message.strip("\n").replace("\n", "\r\n").encode()
        made.append(Letter(name, expected.get("codes", []), expected.get("links", []), data))
    return made


LETTERS = letters()
each_letter = pytest.mark.parametrize("letter", LETTERS, ids=[each.name for each in LETTERS])


def test_there_are_many() -> None:
    assert len(LETTERS) >= 60
    assert sum(not letter.codes for letter in LETTERS) >= 20


@each_letter
def test_codes_are_found_and_other_numbers_are_not(letter: Letter) -> None:
    assert [code.text for code in read_content(letter.message).codes] == letter.codes


@each_letter
def test_links_are_found_the_best_first(letter: Letter) -> None:
    content = read_content(letter.message)
    assert [link.url for link in content.links] == letter.links


@each_letter
def test_scores_are_between_0_and_1_and_fall(letter: Letter) -> None:
    content: Content = read_content(letter.message)
    for scores in ([each.score for each in found] for found in (content.links, content.codes)):
        assert scores == sorted(scores, reverse=True)
        assert all(0 < score <= 1 for score in scores)
