"""The text that search looks at: the same whatever its slices, and in little memory."""

from __future__ import annotations

import tracemalloc
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehlo.store import folding
from ehlo.store.folding import folded, searched_text

HEAD = "Subject: s\r\nContent-Type: text/{}; charset=utf-8\r\n\r\n"
EMOJI = "\U0001f600"  # for which a text takes four bytes for each of its characters
LETTERS = st.text(st.sampled_from('aB1& \n\t,;<>()"é\u2003' + EMOJI), max_size=60)


@given(LETTERS, st.integers(1, 9))
def test_a_text_is_folded_in_slices_as_it_is_in_one(body: str, size: int) -> None:
    message = (HEAD.format("plain") + body).encode()
    with patch.object(folding, "_SLICE", size):
        text = searched_text(message, ["A@B.test"])
    head = "content-type: text/plain charset=utf-8 a@b.test"
    wanted = f"subject: s {head} {folded(body)}"
    assert text == wanted.rstrip()


@pytest.mark.parametrize("kind", ["plain", "html"])
@pytest.mark.parametrize("body", ["&" * 300_000 + EMOJI, "& " * 150_000 + EMOJI])
def test_a_wide_text_takes_a_few_times_its_message(kind: str, body: str) -> None:
    """It took up to 36 times as much, since the text was folded as a whole."""
    message = (HEAD.format(kind) + body).encode()
    searched_text(message[:100], ())  # what is loaded or compiled once
    tracemalloc.start()
    try:
        text = searched_text(message, ())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert text.endswith(f"{body[-3:-1]}{EMOJI}".strip())
    assert peak < 9 * len(message)
