"""`Scenario`: one session as text, parsed and written; `ehlo.testing.dialogue` has the format."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple, Self, cast

Kind = Literal["client", "server", "tls", "eof", "closed", "event"]

_LINE: Final = re.compile(r"([CS])(?:\*(\d{1,6}))?(?:@(\d+(?:\.\d+)?))?(<)?:(?: (.*))?")
_KINDS: Final[dict[str, Kind]] = {"T:": "tls", "E:": "eof", "X:": "closed", "!:": "event"}
_MARKS: Final = {kind: mark for mark, kind in _KINDS.items()}
_ESCAPES: Final = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}
_ESCAPED: Final = {value[0]: b"\\" + name for name, value in _ESCAPES.items()}
_ESCAPE: Final = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|([rnt0\\]))")
_WRONG_ESCAPE: Final = re.compile(r"\\(?!x[0-9a-fA-F]{2}|[rnt0\\])")
_PLACE: Final = (
    rb"\{(?:b64 (?P<plain>[^{}]*)|cram (?P<cram_user>\S+) (?P<cram_secret>[^\s}]+)"
    rb"|(?P<count>\d{1,8}) \* (?P<repeated>[^{}]*)|first (?P<first_user>[^\s}]+)"
    rb"|final (?P<digest>\S+) (?P<final_user>\S+) (?P<final_secret>[^\s}]+))\}"
)
_PLACES: Final = re.compile(_PLACE)
_PLACES_AND_ESCAPES: Final = re.compile(_PLACE + rb"|" + _ESCAPE.pattern)
_SHOWN: Final = 100  # characters of a wrong line
_PRINTABLE: Final = range(0x20, 0x7F)
_MOST_BYTES: Final = 100_000_000  # of a file, and of all that its dialogues send
_MOST_LINES: Final = 1_000_000
_MOST_ROUNDS: Final = 200_000  # of a SCRAM challenge; they take a tenth of a second
_CLIENT_NONCE: Final = "rOprNGfwEbeRWgbNEkqO"


class Step(NamedTuple):
    r"""One line of a dialogue.

    Example:

        >>> from ehlo.testing.dialogue import Step
        >>> Step("client", "AUTH PLAIN {b64 \\0tim\\0secret}").data()
        b'AUTH PLAIN AHRpbQBzZWNyZXQ=\r\n'
    """

    kind: Kind
    text: str = ""
    """What the client sends, before its places are filled, or what the server should send."""
    escaped: bool = False
    """Whether the text has escapes, and all line ends that are sent (`C<`)."""
    line: int = 0
    """The number of the line in its file."""
    time: float | None = None
    """Seconds since the start of the session."""

    @classmethod
    def of(cls, data: bytes, time: float | None = None) -> Self:
        r"""Return the step of a client that sends exactly `data`.

        It is a plain line if `data` is one line of text that ends with CRLF.
        """
        line = data.removesuffix(b"\r\n")
        try:
            text = line.decode()
        except UnicodeDecodeError:
            text = "\0"
        plain = text.isprintable() and text.rstrip() == text and not _PLACES.search(line)
        if plain and line != data:
            return cls("client", text, time=time)
        return cls("client", escaped(data), escaped=True, time=time)

    @classmethod
    def heard(cls, line: str, time: float | None = None) -> Self:
        """Return the step of a server that sends exactly `line`, which has no line end."""
        literal = "{nothing}" if line.endswith(("...", " ")) else ""
        return cls("server", line + literal, time=time)

    def data(self, challenge: bytes = b"") -> bytes:
        """Return the bytes to send, with places filled; `challenge` is the server's last one.

        Raises `ValueError` if the challenge has no answer.
        """

        def filled(found: re.Match[bytes]) -> bytes:
            if self.escaped and found[0].startswith(b"\\"):
                return unescaped(found[0])
            return _filled(found, challenge, escapes=self.escaped)

        pattern = _PLACES_AND_ESCAPES if self.escaped else _PLACES
        return pattern.sub(filled, self.text.encode()) + (b"" if self.escaped else b"\r\n")


class Received(NamedTuple):
    r"""A message that a server has accepted: sender, recipients, body.

    Example:

        >>> from ehlo.testing import dialogue
        >>> [scenario] = dialogue.parse("M: from <a@x.test>\nM: to <b@x.test>\nM| Hello")
        >>> scenario.messages[0].recipients, scenario.messages[0].body
        (['b@x.test'], b'Hello\r\n')
    """

    sender: str
    recipients: list[str]
    body: bytes


@dataclass
class Scenario:
    r"""One session: its title, its steps, and the messages that the server should accept.

    `str(scenario)` is its name in a test report.

    Example:

        >>> from ehlo.testing import dialogue
        >>> [scenario] = dialogue.parse("== Leaves\nC: QUIT\nS: 221 ...", "submission.smtp")
        >>> print(scenario, [step.kind for step in scenario.steps])
        submission: Leaves ['client', 'server']
    """

    title: str = ""
    steps: list[Step] = field(default_factory=list)
    messages: list[Received] = field(default_factory=list)
    given: list[str] = field(default_factory=list)
    """Its settings: each line behind `=`."""
    source: str = ""
    """The name of its file."""

    def __str__(self) -> str:
        return ": ".join(filter(None, (Path(self.source).stem, self.title))) or "dialogue"


def load(path: str | Path) -> list[Scenario]:
    r"""Return the scenarios of a file, which is UTF-8.

    Raises `OSError` if it cannot be read, `ValueError` with the line that is wrong.

    Example:

        >>> from pathlib import Path
        >>> from ehlo.testing import dialogue
        >>> Path("submission.smtp").write_text("== Leaves\nC: QUIT\n")
        18
        >>> print(*dialogue.load("submission.smtp"))
        submission: Leaves
    """
    path = Path(path)
    with path.open("rb") as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise ValueError(f"{path.name}: larger than 100 MB; cut it")
    try:
        decoded = text.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    return parse(decoded.replace("\r\n", "\n"), path.name)


def parse(text: str, source: str = "") -> list[Scenario]:
    r"""Return the scenarios of a text; blanks before a line do not count.

    `source` is the name of the file, for errors. Raises `ValueError` with the line that is wrong,
    and if the text, or what it sends, has more than 100 MB or a million lines.

    Example:

        >>> from ehlo.testing import dialogue
        >>> [scenario] = dialogue.parse("C: QUIT")
        >>> scenario.steps[0].data()
        b'QUIT\r\n'
    """
    found: list[Scenario] = []
    bounds = _Bounds()
    for number, each in enumerate(text.split("\n"), 1):
        line = each.lstrip(" \t")
        if not line or line.startswith("#"):
            continue
        try:
            if line.startswith("== "):
                found.append(Scenario(line[3:], source=source))
                continue
            if not found:
                found.append(Scenario(source=source))
            _add(found[-1], line, number, bounds)
        except ValueError as error:
            shown = line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
            raise ValueError(f"{source or 'line'}:{number}: {shown!r}: {error}") from error
    for scenario in found:
        scenario.messages[:] = [each._replace(body=bytes(each.body)) for each in scenario.messages]
    return found


class _Bounds:
    """Counts what the lines of a text stand for, before it is made."""

    def __init__(self) -> None:
        self._bytes = 0
        self._lines = 0

    def add(self, text: str, times: int = 1) -> None:
        """Count a line of a client. Raises `ValueError` if that is too much."""
        size = len(text)
        for found in _PLACES.finditer(text.encode()):
            if found["count"] is not None:
                size += int(found["count"]) * len(found["repeated"])
        self._bytes += size * times
        self._lines += times
        if self._bytes > _MOST_BYTES or self._lines > _MOST_LINES:
            raise ValueError(
                "too large with what is repeated; write 100 MB and 10**6 lines at most"
            )


def _add(scenario: Scenario, line: str, number: int, bounds: _Bounds) -> None:
    mark, rest = line[:2], line[2:].removeprefix(" ")
    spoken = _LINE.fullmatch(line)
    if mark == "= ":
        scenario.given.append(rest)
    elif spoken is not None:
        bounds.add(spoken[5] or "", int(spoken[2] or 1))
        scenario.steps += _spoken(spoken, number)
    elif mark in _KINDS and bool(rest) == (mark == "!:"):
        scenario.steps.append(Step(_KINDS[mark], rest, line=number))
    elif mark in ("M:", "M|", "M<"):
        bounds.add(line)
        _add_message(scenario.messages, line)
    else:
        raise ValueError("not a line of a dialogue; begin it with C:, S:, T:, E:, X:, M: or #")


def _spoken(found: re.Match[str], number: int) -> list[Step]:
    side, times, time, raw, text = found.groups(default="")
    if side == "S" and raw:
        raise ValueError("S<: is not a line of a dialogue; write S:")
    if raw:
        _check_escapes(text)
    kind: Kind = "server" if side == "S" else "client"
    step = Step(kind, text, bool(raw), number, float(time) if time else None)
    return [step] * int(times or 1)


def _add_message(messages: list[Received], line: str) -> None:
    if line.startswith("M: from "):
        messages.append(Received(line[8:].strip("<>"), [], cast("bytes", bytearray())))
        return
    if not messages:
        raise ValueError("a message begins with M: from <...>")
    message = messages[-1]
    body = cast("bytearray", message.body)  # until the text has ended
    if line.startswith("M: to "):
        message.recipients.extend(re.findall(r"<(.*?)>(?= <|$)", line[6:]))
    elif line.startswith("M|"):
        body += line[2:].removeprefix(" ").encode() + b"\r\n"
    elif line.startswith("M<:"):
        text = line[3:].removeprefix(" ")
        _check_escapes(text)
        body += Step("client", text, escaped=True).data()
    else:
        raise ValueError("not a line of a message; write M: from, M: to, M| or M<:")


def text_of(scenarios: Iterable[Scenario]) -> str:
    r"""Return scenarios as text that `parse` reads.

    Example:

        >>> from ehlo.testing.dialogue import Scenario, Step, text_of
        >>> print(text_of([Scenario("Leave", [Step.of(b"QUIT\r\n"), Step("server", "221 Bye")])]))
        == Leave
        C: QUIT
        S: 221 Bye
        <BLANKLINE>
    """
    return "\n".join("\n".join((*_lines_of(each), "")) for each in scenarios)


def _lines_of(scenario: Scenario) -> Iterator[str]:
    yield f"== {' '.join(scenario.title.split()) or 'Untitled'}"
    yield from (f"= {each}" for each in scenario.given)
    yield from map(line_of, scenario.steps)
    for sender, recipients, body in scenario.messages:
        yield f"M: from <{sender}>"
        yield f"M: to {' '.join(f'<{each}>' for each in recipients)}"
        for line in body.splitlines(keepends=True):
            plain = Step.of(line)
            yield f"M<: {plain.text}" if plain.escaped else f"M| {plain.text}".rstrip()


def line_of(step: Step) -> str:
    """Return the line of a dialogue for one step."""
    if step.kind not in ("client", "server"):
        return f"{_MARKS[step.kind]} {step.text}".rstrip()
    time = "" if step.time is None else f"@{step.time:.3f}"
    mark = f"{step.kind[0].upper()}{time}{'<' * step.escaped}:"
    return f"{mark} {step.text}" if step.text else mark


def matches(expected: str, said: str) -> bool:
    """Return whether a line of the server is the expected one.

    Example:

        >>> from ehlo.testing.dialogue import matches
        >>> matches("250 2.0.0 Ok...", "250 2.0.0 Ok: queued as 4bXyZ1")
        True
    """
    if expected.endswith("..."):
        return said.startswith(expected[:-3].replace("{nothing}", ""))
    expected = expected.replace("{nothing}", "")
    if "{challenge}" in expected:
        pattern = re.escape(expected).replace(r"\{challenge\}", "[A-Za-z0-9+/]{20,}={0,2}")
        return re.fullmatch(pattern, said) is not None
    return said == expected


# -- bytes ---------------------------------------------------------------------------------------


def escaped(data: bytes) -> str:
    r"""Return bytes as the text of a `C<` line, with escapes such as `\r\n` and `\x1b`."""
    text = b"".join(
        _ESCAPED.get(octet) or (bytes([octet]) if octet in _PRINTABLE else b"\\x%02x" % octet)
        for octet in data
    )
    text = _PLACES.sub(lambda found: b"\\x7b" + found[0][1:], text)
    if text.endswith(b" "):  # which an editor may remove
        text = text[:-1] + b"\\x20"
    return text.decode()


def unescaped(text: bytes) -> bytes:
    """Return the bytes that a text with escapes stands for."""

    def replaced(found: re.Match[bytes]) -> bytes:
        return bytes([int(found[1], 16)]) if found[1] else _ESCAPES[found[2]]

    return _ESCAPE.sub(replaced, text)


def _check_escapes(text: str) -> None:
    wrong = _WRONG_ESCAPE.search(re.sub(r"\\\\", "", text))
    if wrong is not None:
        raise ValueError(r"not an escape; write \r \n \t \0 \\ or \xHH")


def _filled(found: re.Match[bytes], challenge: bytes, *, escapes: bool) -> bytes:
    """Return what a place stands for."""
    match found.lastgroup:
        case "plain":
            return base64.b64encode(unescaped(found["plain"]))
        case "cram_secret":
            digest = hmac.new(found["cram_secret"], challenge, hashlib.md5).hexdigest()
            return base64.b64encode(found["cram_user"] + b" " + digest.encode())
        case "first_user":
            first = b"n,,n=%s,r=%s" % (found["first_user"], _CLIENT_NONCE.encode())
            return base64.b64encode(first)
        case "final_secret":
            names = "digest", "final_user", "final_secret"
            return base64.b64encode(_final(challenge, *(found[name].decode() for name in names)))
        case _:
            repeated = found["repeated"]
            return (unescaped(repeated) if escapes else repeated) * int(found["count"])


def _final(challenge: bytes, algorithm: str, user: str, secret: str) -> bytes:
    """Return the last message of SCRAM (RFC 5802 3) for the server's challenge.

    Raises `ValueError` if it is none, or wants too much work.
    """
    nonce, salt, rounds = challenge.decode().split(",")
    if not 0 < int(rounds[2:]) <= _MOST_ROUNDS:
        raise ValueError(f"{rounds[:_SHOWN]}: from 1 to {_MOST_ROUNDS} rounds are done")
    unproved = f"c=biws,{nonce}"
    message = f"n={user},r={_CLIENT_NONCE},{challenge.decode()},{unproved}".encode()
    digest = algorithm.replace("-", "").lower()
    salted = hashlib.pbkdf2_hmac(
        digest, secret.encode(), base64.b64decode(salt[2:]), int(rounds[2:])
    )
    client_key = hmac.digest(salted, b"Client Key", digest)
    signature = hmac.digest(hashlib.new(digest, client_key).digest(), message, digest)
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    return f"{unproved},p={base64.b64encode(proof).decode()}".encode()
