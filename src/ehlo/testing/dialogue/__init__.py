r"""Dialogues: SMTP sessions as text that a mail admin can read, and a player of them.

A file holds scenarios, each one session under a line `== title`. A text without such a line is one
scenario. Lines that begin with `#`, and empty lines, are comments.

    S: <ehlo> SIZE !STARTTLS    any reply 250 to EHLO that offers SIZE and not STARTTLS
    S: 250 2.0.0 Ok             a line of the server; `...` at its end matches any rest
    S*3: 250 2.0.0 Ok           the same line three times
    C: EHLO client.example      a line of the client; CRLF is added
    C<: NOOP\n                  bytes of the client with \r \n \t \0 \\ \xHH; no CRLF is added
    C@1.250: NOOP               a line with its time, in seconds since the start (ignored)
    T:                          the TLS handshake
    E:                          the client closes its sending side
    X:                          the server has closed the connection
    M: from <a@example.com>     a message that the server has accepted: its envelope,
    M: to <b@example.com> <c@example.com>
    M| Subject: hello           lines of its body (CRLF is added), or
    M<: no line end             bytes of it
    = name value                a setting, for players that know it; `play` knows none

Lines of the client that follow each other are sent at once. In them `{b64 text}` is base64 (with
the escapes of `C<`), `{600 * text}` repeats, `{cram user secret}` and `{final SHA-256 user secret}`
answer the last challenge, and `{first user}` begins SCRAM. In lines of the server `{challenge}`
matches base64, and `{nothing}` makes a blank or `...` at the end of a line literal.

A test is then three lines::

    @pytest.mark.parametrize("scenario", dialogue.load("tests/submission.smtp"), ids=str)
    def test_submission(scenario):
        dialogue.play(scenario, ehlo.Server(Submission()))
"""

from ehlo.testing.dialogue.core import replay
from ehlo.testing.dialogue.playing import DialogueError, play, play_async
from ehlo.testing.dialogue.recorded import anonymous, record
from ehlo.testing.dialogue.scenario import Received, Scenario, Step, load, matches, parse, text_of
from ehlo.testing.dialogue.served import Target

__all__ = [
    "DialogueError",
    "Received",
    "Scenario",
    "Step",
    "Target",
    "anonymous",
    "load",
    "matches",
    "parse",
    "play",
    "play_async",
    "record",
    "replay",
    "text_of",
]
