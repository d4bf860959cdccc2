"""HTML as text: what a person reads of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehlo.content.markup import text_of_html


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("", ""),
        ("plain", "plain"),
        ("a\r\n  b\tc", "a b c"),
        ("<p>one</p><p>two</p>", "one\n\ntwo"),
        ("<div>one</div><div>two</div>", "one\ntwo"),
        ("one<br>two<BR/>three", "one\ntwo\nthree"),
        ("one<br><br><br><br>two", "one\n\ntwo"),
        ("<ul><li>one<li>two</ul>", "- one\n- two"),
        ("<tr><td>a</td><td>b</td></tr><tr><td>c</td></tr>", "a b\nc"),
        ("a<hr>b", "a\n---\nb"),
        ("<b>bo</b>ld <i> it </i> x", "bold it x"),
        ("<pre>a\n  b</pre>c", "a\n  b\n\nc"),
        ("&lt;b&gt; &amp; &eacute;&#233;&#xE9;&nbsp;&unknown; &", "<b> & ééé &unknown; &"),
        ("&#99999999999999999999999; &#0;", "&#99999999999999999999999; \ufffd"),
        ("1 < 2 > 0 <3", "1 < 2 > 0 <3"),
        ("a<!-- <p>no</p> -->b<!DOCTYPE x>c<?php x?>d</>e", "abcde"),
        ("a<script>if (1 < 2) {}</script>b<style>p{}</STYLE >c<title>no</title>d", "abcd"),
        ("a<script>never ends", "a"),
        ("a<!-- never ends", "a"),
        ("a<p never ends", "a"),
        ('<a href="https://x.test/?a=1&amp;b=2">here</a>.', "here (https://x.test/?a=1&b=2)."),
        ("<a href='https://x.test/'>https://x.test/</a>", "https://x.test/"),
        ("<a class=x href=mailto:a@x.test>write</a>", "write (mailto:a@x.test)"),
        ('<a href="javascript:x()">x</a><a href="#top">y</a><a name=z>z</a>', "xyz"),
        ('<img alt="A logo" src="https://x.test/i.png">', "A logo"),
        ("<body>in<p>side", "in\n\nside"),
    ],
)
def test_it_is_read_as_text(markup: str, text: str) -> None:
    assert text_of_html(markup) == text


@given(st.text(alphabet="<>/!-=\"' &;#apbrscript\n"))
def test_nothing_raises_and_nothing_hides_in_it(markup: str) -> None:
    text = text_of_html(markup)
    assert "\r" not in text
    assert not text.startswith("\n")
