"""Each case of `ehlo check` passes with a server that is right, and fails with one that is not."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.toy import KEYWORDS, Faults, Toy
from ehlo.conformance import CASES, Case, Patience, Result, check
from ehlo.conformance.catalog import cases_of
from ehlo.conformance.counting import WRONG_ENDS
from ehlo.testing.dialogue import load
from support.certificates import Certificates

LONG = Patience(reply=60, hush=1, total=3600)
SHORT = Patience(reply=3, hush=1, total=3600)
SILENT = {"drops what is pipelined", "stays after QUIT"}  # a case fails by waiting

BY_NAME = {case.name: case for case in CASES}
FOLDER = Path(cases_of.__code__.co_filename).parent / "cases"


def says(**replies: str) -> Faults:
    return Faults(says=replies)


def kind(*names: str) -> Faults:
    return Faults(kinds=frozenset(names))


def replies_to(pattern: str, said: str) -> Faults:
    return Faults(says={pattern: said})


ANY = r"\w+ "
SYNTAX = "501 5.5.4 Syntax"
OK = "250 2.0.0 Ok"

# A fault, and the names of the cases that must fail with it
FAULTS: list[tuple[Faults, str]] = [
    # replies to commands
    (replies_to(ANY + "NOOP", "502 5.5.1 no"), "noop-is-supported"),
    (replies_to(ANY + "NOOP .+", SYNTAX), "noop-may-have-an-argument"),
    (replies_to(ANY + "NOOP x+", "500 5.5.2 long"), "a-command-line-of-512-bytes-is-accepted"),
    (replies_to(ANY + "RSET", "502 5.5.1 no"), "rset-is-supported"),
    (replies_to(ANY + "VRFY.*", "502 5.5.1 no"), "vrfy-is-supported"),
    (replies_to(ANY + "HELP", "502 5.5.1 no"), "help-is-supported"),
    (replies_to("start NOOP", "503 5.5.1 no"), "noop-works-before-ehlo"),
    (replies_to("start RSET", "503 5.5.1 no"), "rset-works-before-ehlo"),
    (replies_to("start VRFY.*", "503 5.5.1 no"), "vrfy-works-before-ehlo"),
    (replies_to("start HELP", "503 5.5.1 no"), "help-works-before-ehlo"),
    (replies_to(ANY + "QUIT", OK), "quit-is-answered-and-the-connection-closed"),
    (kind("stays after QUIT"), "quit-is-answered-and-the-connection-closed"),
    (
        replies_to(ANY + "HELO .*", "250 toy.example/250 SIZE"),
        "helo-is-supported-and-offers-no-extensions",
    ),
    (replies_to(r"start EHLO \[1.*", SYNTAX), "ehlo-with-an-ipv4-literal-is-no-syntax-error"),
    (replies_to(r"start EHLO \[I.*", SYNTAX), "ehlo-with-an-ipv6-literal-is-no-syntax-error"),
    (replies_to("start EHLO", "250 toy.example"), "ehlo-without-a-name-is-rejected"),
    (replies_to("start HELO", "250 toy.example"), "helo-without-a-name-is-rejected"),
    (
        replies_to(ANY + "XYZZY", OK),
        "an-unknown-command-is-rejected an-unknown-command-is-rejected-with-500",
    ),
    (replies_to(ANY + "XYZZY", "502 5.5.1 no"), "an-unknown-command-is-rejected-with-500"),
    (replies_to(ANY, OK), "an-empty-line-is-rejected"),
    (kind("minds case"), "verbs-may-be-in-any-case bdat-may-be-in-any-case"),
    (kind("minds blanks"), "trailing-blanks-are-tolerated"),
    (replies_to(ANY + "RSET now", OK), "rset-with-an-argument-is-rejected"),
    (replies_to(ANY + "QUIT now", "221 2.0.0 Bye"), "quit-with-an-argument-is-rejected"),
    (replies_to(ANY + "DATA now", "354 go on"), "data-with-an-argument-is-rejected"),
    # order
    (replies_to("ready RCPT.*", OK), "rcpt-before-mail-is-out-of-order"),
    (replies_to("ready DATA", "354 go on"), "data-before-mail-is-rejected"),
    (replies_to("mail DATA", "354 go on"), "data-before-rcpt-is-rejected"),
    (replies_to("mail MAIL.*", OK), "mail-in-a-transaction-is-out-of-order"),
    (
        kind("MAIL ends the transaction"),
        "a-command-out-of-order-leaves-the-transaction-as-it-is",
    ),
    (kind("keeps after RSET"), "rset-ends-the-transaction rset-between-chunks-discards-them"),
    (kind("forgets EHLO"), "rset-needs-no-new-ehlo"),
    (replies_to("start MAIL.*", "503 5.5.1 no"), ""),
    (kind("keeps after EHLO"), ""),
    (replies_to("rcpt EHLO.*", "250 toy.example"), "ehlo-ends-the-transaction"),
    (replies_to("rcpt HELO.*", "250 toy.example"), "helo-after-ehlo-ends-the-transaction"),
    (kind("keeps after a message"), "the-end-of-a-message-ends-the-transaction"),
    (kind("a rejected MAIL ends all"), "a-rejected-mail-leaves-the-session-usable"),
    (
        kind("a rejected RCPT ends all"),
        "a-rejected-rcpt-leaves-the-transaction-usable",
    ),
    # line ends of commands
    (Faults(line_ends=[rb"\n"]), "a-command-ends-with-crlf-and-with-nothing-else"),
    (Faults(line_ends=[rb"\r(?!\n)"]), "cr-alone-does-not-end-a-command"),
    (Faults(line_ends=[rb"\0"]), "nul-does-not-end-a-command"),
    (Faults(line_ends=[rb"\xc2\x85"]), "bytes-that-are-not-ascii-do-not-end-a-command"),
    (
        kind("cuts long lines"),
        "no-part-of-a-command-line-that-is-too-long-is-read-as-a-command",
    ),
    # addresses and parameters
    (replies_to("ready MAIL FROM:<>", SYNTAX), "the-null-sender-is-accepted"),
    (
        replies_to("(?i)mail RCPT TO:<postmaster>", "550 5.1.1 no"),
        "postmaster-without-a-domain-is-accepted postmaster-may-be-in-any-case",
    ),
    (replies_to("mail RCPT TO:<pOSTmASTER>", "550 5.1.1 no"), "postmaster-may-be-in-any-case"),
    (
        replies_to('ready MAIL FROM:<".*', SYNTAX),
        (
            "a-quoted-local-part-with-a-space-is-no-syntax-error "
            "a-quoted-local-part-with-an-at-sign-is-no-syntax-error "
            "a-quoted-local-part-with-quoted-pairs-is-no-syntax-error "
            "a-quoted-local-part-with-angle-brackets-is-no-syntax-error"
        ),
    ),
    (
        replies_to(r"ready MAIL FROM:<!#\$.*", SYNTAX),
        "a-local-part-of-any-atom-characters-is-accepted",
    ),
    (
        replies_to(r"ready MAIL FROM:<a@\[.*", SYNTAX),
        "an-ipv4-literal-as-domain-is-no-syntax-error an-ipv6-literal-as-domain-is-no-syntax-error",
    ),
    (
        replies_to(r"\w+ (MAIL FROM|RCPT TO):<@.*", SYNTAX),
        "a-source-route-in-rcpt-is-no-syntax-error a-source-route-in-mail-is-no-syntax-error",
    ),
    (
        replies_to("ready MAIL FROM:<x{64}@.*", SYNTAX),
        "a-local-part-of-64-bytes-is-no-syntax-error",
    ),
    (replies_to("ready MAIL FROM:<a@x.*", SYNTAX), "a-path-of-256-bytes-is-no-syntax-error"),
    (replies_to("ready MAIL <.*", OK), "mail-without-from-is-rejected"),
    (replies_to("mail RCPT <.*", OK), "rcpt-without-to-is-rejected"),
    (
        replies_to("ready MAIL FROM:<[^>]*", OK),
        "a-path-without-its-closing-bracket-is-rejected",
    ),
    (replies_to("mail RCPT TO:<>", OK), "an-empty-recipient-is-rejected"),
    (
        replies_to("ready MAIL FROM:<.*>x", OK),
        "a-text-behind-the-path-that-is-no-parameter-is-rejected",
    ),
    (
        replies_to(r"\w+ (MAIL|RCPT) .* XYZZY=1", OK),
        "mail-with-an-unknown-parameter-is-rejected rcpt-with-an-unknown-parameter-is-rejected",
    ),
    (
        replies_to("ready MAIL .* XYZZY=1", SYNTAX),
        "mail-with-an-unknown-parameter-is-rejected-with-555",
    ),
    (
        replies_to("(?i)ready MAIL .* SIZE=100", SYNTAX),
        "size-is-a-parameter-of-mail parameters-may-be-in-any-case",
    ),
    (replies_to("ready MAIL .* SIZE=x", OK), "size-without-a-number-is-rejected"),
    (
        replies_to("ready MAIL .* SIZE=9+", OK),
        "a-message-of-a-size-over-the-limit-is-rejected-at-mail",
    ),
    (
        replies_to("ready MAIL .* BODY=8BITMIME", SYNTAX),
        "body-8bitmime-is-a-parameter-of-mail-and-8-bit-text-is-accepted",
    ),
    (replies_to("ready MAIL .* BODY=7BIT", SYNTAX), "body-7bit-is-a-parameter-of-mail"),
    (replies_to("ready MAIL .* BODY=XYZZY", OK), "body-with-another-value-is-rejected"),
    (
        replies_to("ready MAIL .* SMTPUTF8", SYNTAX),
        "smtputf8-is-a-parameter-of-mail-with-addresses-that-are-not-ascii",
    ),
    (
        replies_to("ready MAIL FROM:<dö[^ ]*", OK),
        "an-address-that-is-not-ascii-is-rejected-without-smtputf8",
    ),
    (
        Faults(keywords=[word for word in KEYWORDS if word != "8BITMIME"]),
        "smtputf8-is-offered-with-8bitmime",
    ),
    # messages
    (
        Faults(says={"a message": "451 4.3.0 Later"}),
        (
            "a-message-is-accepted two-messages-in-one-session-are-accepted "
            "a-text-line-of-1000-bytes-is-accepted a-message-of-64-kib-is-accepted "
            "lines-that-begin-with-a-dot-are-content commands-in-a-message-are-content "
            "a-message-in-one-chunk-is-accepted a-message-in-several-chunks-is-accepted "
            "a-message-over-tls-is-accepted bdat-after-the-last-chunk-is-out-of-order"
        ),
    ),
    (
        kind("replies twice"),
        "a-message-is-accepted a-dot-right-behind-data-ends-the-message",
    ),
    (Faults(ends=[rb"\r\n\.[^\r]+\r\n"]), "lines-that-begin-with-a-dot-are-content"),
    (Faults(ends=[rb"\r\nQUIT\r\n"]), "commands-in-a-message-are-content"),
    (Faults(ends=[rb"x{990}"]), "a-text-line-of-1000-bytes-is-accepted"),
    (Faults(ends=[rb"(?:NOOP ){1000}"]), "a-text-line-of-100-000-bytes-is-content"),
    (Faults(ends=[rb"(?:[0-9a-f]{62}\r\n){500}"]), "a-message-of-64-kib-is-accepted"),
    (Faults(ends=[rb"\0\r\n"]), "nul-in-a-message-is-content"),
    (Faults(ends=[rb"\xc2\x85"]), "bytes-over-127-in-a-message-are-content"),
    (Faults(ends=[rb":\r\n \r\n"]), "a-malformed-header-is-content"),
    (kind("few recipients"), "100-recipients-are-accepted"),
    (Faults(ends=[rb"\A[\s\S]{100000}"]), "no-byte-of-an-oversize-message-is-read-as-a-command"),
    (kind("takes a packet for a line"), "a-session-in-single-bytes-works"),
    *(
        (Faults(ends=[re.escape(end)]), f"{name} does not end a message")
        for name, end in WRONG_ENDS.items()
    ),
    *(
        (Faults(packet_ends=[end]), f"{name} does not end a message")
        for name, end in WRONG_ENDS.items()
    ),
    # packets
    (
        kind("closes when there is more"),
        (
            "a-group-of-commands-is-answered-in-order commands-behind-rset-are-not-lost "
            "commands-before-quit-are-answered rejected-commands-in-a-group-are-answered-in-order "
            "a-command-behind-the-end-of-a-message-is-answered"
        ),
    ),
    (kind("drops what is pipelined"), "commands-before-quit-are-answered"),
    # chunks
    (kind("reads rejected chunks"), "the-chunk-of-a-rejected-bdat-is-not-read-as-commands"),
    (kind("reads large chunks"), "no-byte-of-an-oversize-chunk-is-read-as-a-command"),
    (kind("looks for dots in chunks"), "commands-and-dots-in-a-chunk-are-content"),
    (
        replies_to("rcpt DATA", "354 go on"),
        "data-in-a-transaction-with-bdat-is-out-of-order",
    ),
    (replies_to("rcpt BDAT LAST", OK), "bdat-without-a-size-is-rejected"),
    (replies_to("rcpt BDAT -1", OK), "bdat-with-a-size-that-is-no-number-is-rejected"),
    # TLS
    (
        replies_to("ready STARTTLS", "454 4.7.0 no"),
        "starttls-begins-tls",
    ),
    (kind("offers TLS twice"), "starttls-is-not-offered-over-tls"),
    (kind("takes TLS twice"), "starttls-over-tls-is-rejected"),
    (replies_to("ready STARTTLS now", "220 go on"), "starttls-with-an-argument-is-rejected"),
    (
        kind("keeps bytes before TLS"),
        "a-command-behind-starttls-in-the-same-packet-is-not-obeyed",
    ),
    (kind("answers before TLS"), "a-command-behind-starttls-in-the-same-packet-is-not-obeyed"),
    (kind("keeps after TLS"), "the-transaction-before-starttls-is-forgotten"),
    # replies
    (Faults(says={"greeting": "220 *** hello"}), "the-greeting-begins-with-the-server-s-name"),
    (
        replies_to("start EHLO .*", "250 *** hello"),
        "the-reply-to-ehlo-begins-with-the-server-s-name",
    ),
    (replies_to("start HELO .*", "250 Hi!"), "the-reply-to-helo-begins-with-the-server-s-name"),
    (
        Faults(keywords=[*KEYWORDS, "CHUNKING"]),
        "the-reply-to-ehlo-has-each-keyword-once",
    ),
    (Faults(keywords=[*KEYWORDS, "A_B"]), "the-reply-to-ehlo-has-each-keyword-once"),
    (kind("talks in advance"), ""),
    (
        replies_to(ANY + "EHLO client.*", "250 toy.example|250 2.0.0 Ok"),
        "no-reply-comes-before-its-command",
    ),
    (kind("no codes"), "replies-have-enhanced-status-codes"),
    (Faults(says={"a message": "250 Ok"}), "a-message-is-answered-with-an-enhanced-status-code"),
]


def cases_named(names: str) -> list[Case]:
    if names.endswith(" does not end a message"):
        return [case for case in CASES if case.title == names]
    return [BY_NAME[name] for name in names.split()]


def ids() -> Iterator[str]:
    for faults, names in FAULTS:
        kinds = ", ".join(faults.kinds)
        yield kinds or names.partition(" does")[0].partition(" ")[0] or "none"


@pytest.fixture(scope="module")
def right(certificates: Certificates) -> Iterator[dict[str, Result]]:
    patience = Patience(reply=60, hush=0.05, total=3600)
    with Toy(tls=certificates.server()) as toy:
        yield {result.case.name: result for result in check(toy.address, patience=patience)}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_case_passes_with_a_server_that_is_right(right: dict[str, Result], name: str) -> None:
    assert right[name].outcome == "passed", right[name]


@pytest.mark.parametrize(("faults", "names"), FAULTS, ids=list(ids()))
def test_a_case_fails_with_a_server_that_is_wrong(
    faults: Faults, names: str, certificates: Certificates
) -> None:
    cases = cases_named(names)
    with Toy(faults, certificates.server()) as toy:
        patience = SHORT if faults.kinds & SILENT else LONG
        results = list(check(toy.address, patience=patience, cases=cases))
    assert [result.case.name for result in results if result.outcome != "failed"] == []
    assert all(result.expected and result.replied for result in results)


def test_each_case_is_seen_to_fail() -> None:
    seen = {case.name for _, names in FAULTS for case in cases_named(names)}
    assert BY_NAME.keys() - seen == set()


def test_the_page_counts_the_cases() -> None:
    page = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\b(\d+) cases,", page)) | set(
        re.findall(r"with (\d+) cases", page)
    ) == {str(len(CASES))}
    assert f"{len(WRONG_ENDS)} sequences that must not end a message" in page


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(CASES)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in BY_NAME)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.smtp")), ids=lambda path: path.stem)
def test_a_chunk_is_as_long_as_its_command_says(path: Path) -> None:
    for scenario in load(path):
        steps = [step for step in scenario.steps if step.kind == "client"]
        for step, following in itertools.pairwise(steps):
            found = re.match(r"(?i)bdat (\d+)", step.text)
            if found is not None and following.escaped:
                assert len(following.data()) == int(found[1]), scenario


@pytest.mark.parametrize(
    "given",
    ["must 5321", "must RFC 5321 2.4\n= after nothing", "must RFC 5321 2.4\n= likes CHUNKING"],
)
def test_a_wrong_setting_of_a_case_is_an_error(tmp_path: Path, given: str) -> None:
    path = tmp_path / "wrong.smtp"
    path.write_text(f"== Wrong\n= {given}\nC: NOOP\nS: 250\n")
    with pytest.raises(ValueError, match="wrong: Wrong: wrong settings"):
        list(cases_of(path))
