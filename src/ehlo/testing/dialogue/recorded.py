"""Makes a dialogue of a transcript, which plays again without a difference.

What a transcript leaves out is replaced by what has the same effect: a body by as many bytes, a
login by one of its mechanism for the user `user`. Where a session is cut, its dialogue ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from ehlo.testing.dialogue.scenario import Scenario, Step, escaped, unescaped
from ehlo.transcript import LONGEST, MASK, Line, Transcript

USER, SECRET, WRONG = "user", "secret", "wrong"
"""The name and the password that stand for those of a client, and for a wrong password."""

_CUT: Final = re.compile(r"(.*)\.\.\. \((\d+) more\)", re.DOTALL)
_BODY: Final = re.compile(r"(\d+) bytes of a message(, without its end)?")
_CHUNK: Final = re.compile(r"BDAT +(\d+)(?: .*)?", re.IGNORECASE)
_QUEUED: Final = re.compile(r"(250 2\.0\.0 Ok: queued as ).+")
_WIDTH: Final = 70
_MOST: Final = 99_999_999  # bytes that a place repeats
_LONG: Final = "{13000 * x}"  # longer than any line may be
_PROMPTS: Final = frozenset({"", "VXNlcm5hbWU6", "UGFzc3dvcmQ6"})
# By a reply to a line that is masked: a line that has it, too
_REJECTED: Final = {
    "Line too long": Step("client", _LONG),
    "Authentication exchange line is too long": Step("client", f"AUTH PLAIN {_LONG}"),
    "Syntax error: characters that no command has": Step("client", r"\0\r\n", escaped=True),
    "Syntax error: line must end with CRLF": Step("client", r"NOOP\n", escaped=True),
}
# By the last reply of a login: the last response in it
_LAST_RESPONSES: Final = {
    "501 5.7.0": "*",
    "501 5.5.2 Invalid": "!",
    "501 5.5.2 Malformed": "{b64 x}",
    "500 5.5.6": _LONG,
}


def record(
    transcript: Transcript | Sequence[Line],
    title: str = "",
    given: Iterable[str] = (),
    *,
    replace_addresses: bool = False,
) -> Scenario:
    """Return the dialogue of a session, with its times.

    `given` are the settings of its server. A transcript that omits lines is recorded up to there.
    `replace_addresses` is for `anonymous` lines.

    Example:

        >>> import ehlo
        >>> from ehlo.testing import dialogue
        >>> transcript = ehlo.Transcript(clock=lambda: 0.0)
        >>> transcript.add("server", "220 mx.example ESMTP")
        >>> transcript.add("client", "QUIT")
        >>> print(dialogue.text_of([dialogue.record(transcript, "Leave")]))
        == Leave
        S@0.000: 220 mx.example ESMTP
        C@0.000: QUIT
        <BLANKLINE>
    """
    cut = isinstance(transcript, Transcript) and transcript.omitted > 0
    gap = transcript.gap if isinstance(transcript, Transcript) and cut else len(transcript)
    lines = transcript[:gap]
    recorder = _Recorder(anonymous(lines) if replace_addresses else lines)
    steps = recorder.steps()
    if cut:
        while steps and steps[-1].kind != "server":
            steps.pop()
    logs_in = [f"user {USER} {SECRET}"] if recorder.has_stand_in else []
    return Scenario(title, steps, given=[*given, *logs_in])


class _Recorder:
    """Goes through the lines of one session, and writes its steps."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._lines = list(lines)
        self._at = 0
        self._steps: list[Step] = []
        self._start = self._lines[0].time if self._lines else 0.0
        self._replied = False  # nothing was sent since the last reply
        self._code = ""  # of the last reply
        self._in_body = False
        self._login: list[str] = []  # the responses that stand for those of the login under way
        self._is_challenged = False  # its responses fit the challenge, and are never sent again
        self.has_stand_in = False

    def steps(self) -> list[Step]:
        while self._at < len(self._lines):
            line = self._lines[self._at]
            self._at += 1
            match line.direction:
                case "server":
                    self._heard(line)
                case "client":
                    self._said(line)
                case _:
                    if not self._noted(line):
                        break
        return self._steps

    # -- the server ------------------------------------------------------------------------------

    def _heard(self, line: Line) -> None:
        text = unescaped(line.text.encode()).decode(errors="replace")
        if (self._replied or self._in_body) and text.startswith("421"):  # for no command
            self._steps.append(Step("event", "idle" if text.startswith("421 4.4.2") else "drain"))
        if text[3:4] != "-":
            self._code = text[:3]
            self._replied = True
            self._in_body = self._code == "354"
        if self._code == "334":
            challenge = text[4:]
            if challenge == MASK:
                text = "334 ..."
            elif challenge not in _PROMPTS and len(challenge) >= 20:
                text = "334 {challenge}"
            if "{" in text or text == "334 ...":
                self._steps.append(Step("server", text, time=self._time(line)))
                return
        queued = _QUEUED.fullmatch(text)
        if queued is not None:
            self._steps.append(Step("server", f"{queued[1]}...", time=self._time(line)))
            return
        self._steps.append(Step.heard(text, self._time(line)))

    def _time(self, line: Line) -> float:
        return max(line.time - self._start, 0.0)

    # -- the client ------------------------------------------------------------------------------

    def _said(self, line: Line) -> None:
        self._replied = False
        time = self._time(line)
        if self._in_body:
            self._in_body = line.text != "."
            self._add(_step_of(line.text), time)
        elif self._code == "334":
            self._respond(line.text, time)
        elif line.text.split(" ")[0].upper() == "AUTH":
            self._log_in(line.text, time)
        elif line.text == MASK:
            reply = self._next_reply()[10:]
            self._add(_REJECTED.get(reply, Step("client", "X-MASKED")), time)
        else:
            self._add(_step_of(line.text), time)
            chunk = _CHUNK.fullmatch(line.text)
            if chunk is not None:
                self._chunk(int(chunk[1]), time)

    def _add(self, step: Step, time: float | None = None) -> None:
        self._steps.append(step._replace(time=time))

    def _next_reply(self, *, but: str = "") -> str:
        """Return the last line of the next reply that does not begin with `but`."""
        for line in self._lines[self._at :]:
            text = line.text
            if line.direction == "server" and text[3:4] != "-" and not (but and text[:3] == but):
                return text
        return ""

    def _challenges(self) -> int:
        """Return the number of challenges before the next reply that is none."""
        found = 0
        for line in self._lines[self._at :]:
            if line.direction == "server":
                if not line.text.startswith("334"):
                    break
                found += 1
        return found

    # -- logins ----------------------------------------------------------------------------------

    def _log_in(self, text: str, time: float) -> None:
        """Write the AUTH command, and find the responses of its mechanism."""
        command, _, rest = text.partition(" ")
        mechanism, _, initial = rest.strip().partition(" ")
        outcome = self._next_reply(but="334")
        name = mechanism.upper()
        # A proof that was right has a reply of its own, whatever comes of the login
        proved = name.startswith("SCRAM-") and self._challenges() > (1 if initial else 2)
        password = SECRET if proved or outcome.startswith("235") else WRONG
        self._login = _responses(name, password, outcome)
        self._is_challenged = name.startswith(("SCRAM-", "CRAM-"))
        if mechanism == MASK:
            self._add(Step("client", f"{command} X-MASKED {'=' * bool(initial)}".rstrip()), time)
        elif initial and (initial == MASK or self._is_challenged):
            self._add(
                Step("client", f"{text.rpartition(initial)[0]}{self._response() or '='}"), time
            )
        else:
            self._login = self._login[1:] if initial else self._login
            self._add(_step_of(text), time)

    def _respond(self, text: str, time: float) -> None:
        """Write a line of a login."""
        stand_in = Step("client", self._response())
        self._add(stand_in if text == MASK or self._is_challenged else _step_of(text), time)

    def _response(self) -> str:
        """Return the next response that stands for one of the client."""
        self.has_stand_in = True
        responses, self._login = self._login, self._login[1:]
        follows = self._lines[self._at : self._at + 1]
        is_last = bool(follows) and not follows[0].text.startswith("334")
        if is_last and responses and responses[-1] in _LAST_RESPONSES.values():
            return responses[-1]
        return responses[0] if responses else "="

    # -- bodies ----------------------------------------------------------------------------------

    def _chunk(self, size: int, time: float) -> None:
        """Write the bytes of a chunk, as they are shown, or as many others."""
        left = size
        while left and self._at < len(self._lines) and self._lines[self._at].direction == "client":
            step = _step_of(self._lines[self._at].text)
            data = step.data()
            if left < len(data) - 2:  # bytes of a chunk that was skipped are not shown
                break
            self._at += 1
            self._add(Step.of(data[:left]) if left < len(data) else step, time)
            left -= min(left, len(data))
        follows = self._lines[self._at : self._at + 2]
        noted = _BODY.fullmatch(follows[0].text) if follows else None
        if noted is not None:
            self._at += 1
            left = int(noted[1])
        elif left == size and any(line.text == "connection closed" for line in follows[1:]):
            return  # the server has closed instead of reading it
        if left:
            self._add(_stand_in(left), time)

    # -- events ----------------------------------------------------------------------------------

    def _noted(self, line: Line) -> bool:
        """Write an event; return whether the dialogue can go on after it."""
        time = self._time(line)
        body = _BODY.fullmatch(line.text)
        if body is not None:
            self._in_body = False
            self._replied = body[2] is not None  # nothing more of it was awaited
            size = int(body[1])
            if body[2]:
                self._add(_stand_in(size), time)
            else:
                self._add(_stand_in_lines(size), time)
        elif line.text.startswith("TLS failed"):
            return False
        elif line.text.startswith("TLS"):
            self._steps.append(Step("tls"))
        elif line.text.startswith("bytes followed STARTTLS"):
            self._steps[-1] = Step("client", r"STARTTLS\r\nNOOP\r\n", escaped=True, time=time)
        elif line.text in ("client closed its sending side", "client disconnected"):
            self._steps.append(Step("eof"))
        elif line.text == "connection closed":
            self._steps.append(Step("closed"))
        return True


def _step_of(text: str) -> Step:
    """Return the step of a client that sends a line, which may be cut."""
    cut = _CUT.fullmatch(text)
    if cut is not None and len(data := unescaped(cut[1].encode())) == LONGEST:
        return Step("client", f"{escaped(data)}{{{cut[2]} * x}}\\r\\n", escaped=True)
    data = unescaped(text.encode())
    return Step.of(data if data.endswith(b"\n") else data + b"\r\n")


def _stand_in(size: int) -> Step:
    """Return a step that sends as many bytes."""
    return Step("client", f"{{{min(size, _MOST)} * x}}", escaped=True)


def _stand_in_lines(size: int) -> Step:
    """Return a step that sends lines with as many bytes, and the end of a body."""
    lines, rest = divmod(size, _WIDTH + 2)
    if rest == 1 and lines:
        lines, rest = lines - 1, rest + _WIDTH + 2
    last = "x" * (rest - 2) + r"\r\n" if rest >= 2 else ""
    many = f"{{{lines} * {'x' * _WIDTH}\\r\\n}}" if lines else ""
    return Step("client", rf"{many}{last}.\r\n", escaped=True)


def _responses(mechanism: str, password: str, outcome: str) -> list[str]:
    """Return what the client of a mechanism sends, the initial response first."""
    last = [text for reply, text in _LAST_RESPONSES.items() if outcome.startswith(reply)]
    usual = {
        "PLAIN": [rf"{{b64 \0{USER}\0{password}}}"],
        "LOGIN": [f"{{b64 {USER}}}", f"{{b64 {password}}}"],
        "CRAM-MD5": [f"{{cram {USER} {password}}}"],
        "XOAUTH2": [rf"{{b64 user={USER}\x01auth=Bearer {password}\x01\x01}}", ""],
        "OAUTHBEARER": [rf"{{b64 n,a={USER},\x01auth=Bearer {password}\x01\x01}}", "AQ=="],
        "EXTERNAL": [""],
        "ANONYMOUS": ["{b64 guest}"],
    }
    if mechanism.startswith("SCRAM-"):
        algorithm = mechanism.removeprefix("SCRAM-").removesuffix("-PLUS")
        found = [f"{{first {USER}}}", f"{{final {algorithm} {USER} {password}}}", ""]
    else:
        found = usual.get(mechanism, [f"{{b64 {password}}}"])
    return [*found, *last]


# -- addresses -----------------------------------------------------------------------------------

_ATOM: Final = r"[^\s<>()\[\]:;,@\"\\=]++"
# An address begins where no other can, and what it is made of is bounded, or never tried twice: so
# the search is linear
_ADDRESS: Final = re.compile(
    r"(?<![^\s<>()\[\]:;,@\"\\])"
    r"(?P<key>(?:AUTH|ORCPT|LOGIN|ENVID)=(?:[\w-]{1,40}+;)?)?"
    rf"(?P<path>(?:\"(?:[^\"\\]|\\.){{1,128}}+\"|{_ATOM}(?:={_ATOM})*+)@(?:\[[^\]\s]++\]|[\w.-]++))",
    re.IGNORECASE,
)
_IP: Final = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]|\d)")
_IPV6: Final = re.compile(r"(?i)(?<=IPV6:)[0-9a-f:.]+")
_HELLO: Final = re.compile(r"(?i)(EHLO|HELO|LHLO) +(\S+)(.*)")
_NAMED: Final = re.compile(r"(?i)(VRFY|EXPN) +(.+)")
_ATTRIBUTE: Final = re.compile(r"(?i)\b(NAME|HELO|LOGIN|IDENT)=(?!\[(?:UN|TEMP)AVAIL)(\S+)")


class _Names:
    """Replaces names by others, the same ones each time."""

    def __init__(self) -> None:
        self._others: dict[str, str] = {}

    def other(self, name: str, form: str) -> str:
        """Return what stands for a name; `form` has a place for a number."""
        key = name.lower()
        if key not in self._others:
            number = 1 + sum(1 for each in self._others.values() if _like(each, form))
            self._others[key] = form.format(number)
        return self._others[key]

    def known(self, text: str) -> str:
        """Replace the names of clients that are known, as where a reply repeats one."""
        for name, other in self._others.items():
            if other.startswith("client"):
                text = re.sub(rf"(?i)(?<![\w.-]){re.escape(name)}(?![\w-])", other, text)
        return text


def _like(name: str, form: str) -> bool:
    before, _, after = form.partition("{}")
    return name.startswith(before) and name.endswith(after)


def anonymous(lines: Iterable[Line]) -> list[Line]:
    """Return lines with personal addresses replaced, each by the same one wherever it occurs.

    Those are the addresses of mail and of machines, the names that clients give, and the users of
    VRFY, EXPN and XCLIENT. Other text of messages and replies stays.

    Example:

        >>> from ehlo.testing import dialogue
        >>> import ehlo
        >>> lines = [ehlo.Line(0.0, "client", "MAIL FROM:<ada@corp.com>")]
        >>> dialogue.anonymous(lines)[0].text
        'MAIL FROM:<user1@domain1.example>'
    """
    names = _Names()
    return [line._replace(text=_replaced(line, names)) for line in lines]


def _replaced(line: Line, names: _Names) -> str:
    def address(found: re.Match[str]) -> str:
        local, _, domain = found["path"].rpartition("@")
        user = names.other(f"{local}@{domain}", "user{}")
        return f"{found['key'] or ''}{user}@{names.other(domain, 'domain{}.example')}"

    text = line.text
    if line.direction == "client":
        hello, named = _HELLO.fullmatch(text), _NAMED.fullmatch(text)
        if hello is not None and not hello[2].startswith("["):
            text = f"{hello[1]} {names.other(hello[2], 'client{}.example')}{hello[3]}"
        elif named is not None and "@" not in named[2]:
            text = f"{named[1]} {names.other(named[2], 'user{}')}"
        if text[:8].upper() in ("XCLIENT ", "XFORWARD"):
            text = _ATTRIBUTE.sub(
                lambda found: f"{found[1]}={names.other(found[2], 'client{}.example')}", text
            )
    else:
        text = names.known(text)
    text = _ADDRESS.sub(address, text)
    text = _IP.sub(lambda found: names.other(found[0], "192.0.2.{}"), text)
    return _IPV6.sub(lambda found: names.other(found[0], "2001:db8::{}"), text)
