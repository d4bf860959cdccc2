"""`Link`: the addresses in a message that a person can follow, the best one first.

These rules find them:

- In HTML: `href` of `a` and `area`, and `action` of `form`. In HTML and in text: each address with
  `://`, and each one that begins with `www.`.
- Schemes are `http`, `https`, and those of apps (`myapp://reset?token=x`). `mailto:`, `tel:`,
  `javascript:`, `data:`, `cid:`, `file:`, `ftp:`, anchors and relative addresses are left out.
- An address in text ends at a blank, a quote, `<`, `>`, a bracket or a full stop of Chinese or
  Japanese, and at a letter of these scripts or of Korean. Punctuation and unopened brackets at its
  end are not part of it. Between `<` and `>` it may continue on further lines (RFC 3986 C).
- An address that is the label of a link to another address is left out: no click leads to it.
- An address is listed once, as it came, with its best score.
- The text of a link is its label in HTML, and in text what stands before the address.

These rules make the score, of which the first that applies counts:

| Score | The address |
|---|---|
| 0.1 | Its label or its path speaks of unsubscribing or of preferences. |
| 0.15 | It counts an opening (`/pixel`, `/open`), or leads to a social network or an app store. |
| 0.2 | It belongs to a footer: terms, privacy, imprint, help, "view in browser". |
| 0.3 | It is the `action` of a form, or a file: an image, a style sheet, a font. |
| 0.35 | It is a home page, without path and query, and nothing asks for an action. |
| 0.8 | Its label or its path asks for an action: verify, reset, log in. |
| 0.5 | It is anything else. |

A token in an address, of 16 letters and digits or more, adds 0.1 to the last two. With a label
that is short ("here"), the text around it in its sentence counts, too.

What it costs is in proportion to the text: only the beginning of a label, of a path and of the text
around is looked at, and only as many addresses are read as a message of this size really has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

from ehlo.content.markup import Anchor

MOST_LINKS: Final = 1_000
"""Addresses that are read of a text; in a small one fewer: one for each 100 characters, and 20."""
LONGEST_LINK: Final = 2_048
"""Characters of an address; a longer one is left out."""
_LONGEST_BEFORE: Final = 120
_SHORT: Final = 24  # characters of a label, such as "here", that needs the text around it

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,30}\Z")
_SCHEME_HERE: Final = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]{1,30})://[^\s/]")
_NOT_FOLLOWED: Final = frozenset(
    ("file", "ftp", "data", "javascript", "cid", "mid", "about", "chrome", "imap", "ldap", "smtp")
)
# Kana, Han, Hangul, and full-width forms: sentences in them have no blanks
_IDEOGRAPHS: Final = (
    "\u1100-\u11ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef"
)
_IDEOGRAPH: Final = re.compile(f"[{_IDEOGRAPHS}]")
# Among them what a terminal obeys, and what turns the direction of text
_NOT_IN_PATHS: Final = (
    r"\s\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff"
    r"<>\"`{}|\\^\u201c\u201d\u00ab\u00bb"
)
_HOST: Final = re.compile(
    rf"(?:[^{_NOT_IN_PATHS}/?#'()]{{1,255}}@)?"
    r"(?:\[[0-9A-Fa-f:.]{2,60}\]|[\w.-]{1,255})(?::\d{1,5})?"
)
_ASCII_DOMAIN: Final = re.compile(rf"[A-Za-z0-9.-]+\.[A-Za-z]{{2,24}}(?=[{_IDEOGRAPHS}])")
_PATH: Final = re.compile(rf"[/?#][^{_NOT_IN_PATHS}{_IDEOGRAPHS}]*")
_ANY_PATH: Final = re.compile(rf"[/?#][^{_NOT_IN_PATHS}\u3000-\u301f\uff01-\uff20]*")
_BREAK: Final = re.compile(r"\s+")
# What ends before an address: a sentence, or another address
# It begins with a set of characters, for which a search looks fast
_SENTENCE: Final = re.compile(r"[\s。！？](?:(?<=[.!?]\s)\s*|(?<=[。！？])\s*(?=\S))")
_BOUND: Final = re.compile(rf"{_SENTENCE.pattern}|\S{{0,80}}://\S*")
_BEHIND: Final = re.compile(r"\S*(?:(?<=[.!?])\s+)?")  # from `://` to where a sentence begins
_WORD: Final = re.compile(r"\w")
_BRACKETS: Final = ("()", "[]")
_LOOSE: Final = ".,;:!?'*_~\u2026\u2019)]"  # the brackets only where they are not opened
_TOKEN: Final = re.compile(r"(?=[A-Za-z_-]{0,40}[0-9])[A-Za-z0-9_-]{16,}")
_FILE: Final = re.compile(r"\.(?:png|jpe?g|gif|svg|webp|ico|css|js|woff2?|ttf)\Z")
_OPENED: Final = re.compile(r"/(?:wf/)?(?:open|pixel|beacon|track/open)\b")


class _Words:
    """Words to look for, those in ASCII first: most texts need no others."""

    __slots__ = ("_in_ascii", "_others")

    def __init__(self, text: str) -> None:
        words = [word.replace("_", " ") for word in text.split()]
        self._in_ascii = tuple(filter(str.isascii, words))
        self._others = tuple(word for word in words if not word.isascii())

    def occur_in(self, text: str) -> bool:
        if any(word in text for word in self._in_ascii):
            return True
        return not text.isascii() and any(word in text for word in self._others)


_LEAVING: Final = _Words(
    "unsubscri opt-out optout opt_out preferences notification-settings notification_settings"
    " email-settings email_settings manage_your_notif manage_notif abbestell newsletter_abmelden"
    " abzumelden austragen benachrichtigungseinstellungen désabonn desabonn désinscri desinscri"
    " préférences darse_de_baja dar_de_baja cancelar_suscrip disiscriv cancella_iscri afmelden"
    " uitschrijven avregistrera avsluta_prenum afmeld avmeld wypisz отписаться отпис 配信停止"
    " 配信解除 購読解除 退会 メール設定 退订 退訂 取消订阅 수신거부 구독_취소"
)
_ELSEWHERE: Final = _Words(
    "facebook.com twitter.com //x.com instagram.com linkedin.com youtube.com tiktok.com"
    " pinterest. threads.net mastodon bsky.app apps.apple.com play.google.com itunes.apple.com"
)
_FOOTER: Final = _Words(
    "privacy terms imprint impressum datenschutz agb /legal legal_notice cookie"
    " mentions_légales mentions-legales confidentialité confidentialite cgu conditions_générales"
    " privacidad aviso_legal プライバシー 利用規約 特定商取引 会社概要 隐私 服务条款"
    " 개인정보 이용약관"
    " help_cent /help /faq /support hilfe aide ヘルプ お問い合わせ"
    " view_in_browser view_online view_this_email in_your_browser im_browser webansicht"
    " online-version en_ligne version_web en_el_navegador ブラウザで"
)
_ACTION: Final = _Words(
    "verif confirm activat validat reset recover passw log_in login log-in sign_in sign-in signin"
    " sign_up magic invit accept unlock token otp authenti approve register registr download"
    " get_started join bestätig bestaetig aktivier freischalt zurücksetz zuruecksetz anmeld"
    " einlogg einlad kennwort annehmen herunterlad confirmer activer valider réinitial"
    " reinitial connexion connecter mot_de_passe mot-de-passe inviter télécharger confirmar"
    " activar verificar restablecer contraseña iniciar_sesión redefinir senha entrar conferma"
    " attiva reimposta accedi bevestig activeer wachtwoord inloggen bekräft aktivera lösenord"
    " bekræft bekreft potwierd aktywuj hasło подтверд активир сброс войти парол 確認 認証 再設定"
    " リセット ログイン 有効化 登録 招待 验证 驗證 确认 確認 重置 登录 激活 인증 확인 재설정 로그인"
)


@dataclass(frozen=True, slots=True)
class Link:
    r"""An address in a message that a person can follow.

    Example:

        >>> from ehlo.content import read_content
        >>> mail = b"Subject: hi\n\nReset your password: https://x.test/reset/1"
        >>> (link,) = read_content(mail).links
        >>> link.url, link.text, link.score
        ('https://x.test/reset/1', 'Reset your password', 0.8)
    """

    url: str
    """The address as it came; a domain may have letters that are not ASCII."""
    text: str
    """The label of the link in HTML; in text, what stands before the address. May be empty."""
    score: float
    """How likely this is what the message asks its reader to open, from 0 to 1."""


class _Found(NamedTuple):
    """An address in a text, and where it begins and ends there."""

    url: str
    start: int
    end: int


def most_links(size: int) -> int:
    """Return how many addresses are read of `size` characters."""
    return min(MOST_LINKS, 20 + size // 100)


def find_links(texts: Iterable[str], anchors: Iterable[Anchor]) -> list[Link]:
    """Return the links of texts and of HTML, the best first, then in their order.

    HTML is given twice: by its `anchors`, and by its text among `texts`.
    """
    found: dict[str, Link] = {}
    shown: set[str] = set()  # addresses that only look like links
    known: set[tuple[str, str]] = set()
    for anchor in anchors:
        url = _followed(anchor.href)
        if not url or (url, anchor.label) in known:
            continue
        known.add((url, anchor.label))
        shown.update(each.url for each in find_addresses(anchor.label, 2))
        around = f"{_last_sentence(anchor.before)} {_BOUND.split(anchor.after, 1)[0]}"
        score = 0.3 if anchor.tag == "form" else _score(url, anchor.label, around)
        _add(found, Link(url, _printable(anchor.label), score))
    for text in texts:
        for url, start, _ in find_addresses(text, most_links(len(text))):
            if url in shown and url not in found:
                continue
            before = _before(text, start)
            if (url, before) in known:
                continue
            known.add((url, before))
            _add(found, Link(url, _printable(before), _score(url, before, "")))
    return sorted(found.values(), key=lambda link: -link.score)[:MOST_LINKS]


def _add(found: dict[str, Link], link: Link) -> None:
    other = found.setdefault(link.url, link)
    if other is not link:
        score = max(other.score, link.score)
        found[link.url] = Link(link.url, other.text or link.text, score)


def _printable(text: str) -> str:
    """Return `text` without what a terminal obeys, and what turns the direction of text."""
    if text.isprintable():
        return text
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _followed(href: str) -> str:
    """Return the address in `href` as a browser reads it; empty when it is not to be followed."""
    url = href.strip()
    if not url.isprintable():  # line ends and tabs are left out, as browsers do
        url = "".join(filter(str.isprintable, url))
    scheme = _SCHEME_HERE.match(url)
    if scheme is None or scheme[1].lower() in _NOT_FOLLOWED:
        return ""
    return url.replace(" ", "%20")


# -- addresses in text -----------------------------------------------------------------------------


def find_addresses(text: str, most: int) -> Iterator[_Found]:
    """Yield the first `most` addresses in `text`."""
    at = 0
    for start, host in islice(_starts(text), most):
        if start >= at and (address := _address_at(text, start, host)) is not None:
            at = address.end
            yield address


def _starts(text: str) -> Iterator[tuple[int, int]]:
    """Yield where an address may begin, and where its host does; searches the text once."""
    scheme, bare = text.find("://"), text.find("www.")
    while scheme >= 0 or bare >= 0:
        if bare < 0 or 0 <= scheme < bare:
            found = _SCHEME.search(text, max(0, scheme - 32), scheme)
            if found is not None:
                yield found.start(), scheme + 3
            scheme = text.find("://", scheme + 3)
        else:
            if not bare or not (text[bare - 1].isalnum() or text[bare - 1] in "./@-_"):
                yield bare, bare
            bare = text.find("www.", bare + 4)


def _address_at(text: str, start: int, host: int) -> _Found | None:
    end = min(len(text), host + LONGEST_LINK + 1)
    bare = start == host
    scheme = "" if bare else text[start : host - 3].lower()
    found = _HOST.match(text, host, end)
    if found is None or scheme in _NOT_FOLLOWED:
        return None
    domain = None if text.isascii() else _ASCII_DOMAIN.match(text, host, found.end())
    stop = found.end() if domain is None else domain.end()
    paths = (
        _PATH if text[host:stop].isascii() or not _IDEOGRAPH.search(text, host, stop) else _ANY_PATH
    )
    if domain is None and (path := paths.match(text, stop, end)) is not None:
        stop = path.end()
    if stop - start > LONGEST_LINK:
        return None
    if text[start - 1 : start] == "<" or text[max(0, start - 5) : start].upper() == "<URL:":
        return _bracketed(text, start, stop, end)
    stop = _without_punctuation(text, host, stop)
    if _WORD.search(text, host, stop) is None:
        return None
    url = text[start:stop]
    return _Found(f"http://{url}" if bare else url, start, stop)


def _bracketed(text: str, start: int, stop: int, most: int) -> _Found | None:
    """Return an address up to its `>`, without the line ends in between."""
    close = text.find(">", stop, most)
    inner = text[start:close] if close >= 0 else text[start:stop]
    if "<" in inner or "\n\n" in inner or inner.count("\n") > 30 or " " in inner.strip():
        inner = text[start:stop]
    url = _BREAK.sub("", inner)
    if not url.isprintable():
        inner = url = text[start:stop]
    url = f"http://{url}" if url[:4] == "www." else url
    return _Found(url, start, start + len(inner))


def _without_punctuation(text: str, start: int, stop: int) -> int:
    """Return where the address ends, without what belongs to the sentence around it."""
    shown = text[start:stop]
    kept = len(shown.rstrip(_LOOSE))
    if kept < len(shown):
        for opening, close in _BRACKETS:
            surplus = max(0, shown.count(close) - shown.count(opening))
            kept = max(kept, shown.rsplit(close, surplus)[0].rfind(close) + 1)
    return start + kept


def _before(text: str, start: int) -> str:
    """Return what stands before an address: the beginning of its line, or the line above."""
    above = text[max(0, start - 240) : start].rstrip("<([{\"' \t\n")
    above = above.removesuffix("URL:")
    said = _last_sentence(above.rpartition("\n")[2])
    return " ".join(said.split()).strip(" <>([*-\u2022:\u2192")


def _last_sentence(text: str) -> str:
    address = text.rfind("://")
    if address >= 0 and (behind := _BEHIND.match(text, address)) is not None:
        text = text[behind.end() :]
    return _SENTENCE.split(text)[-1][-_LONGEST_BEFORE:]


# -- scores ----------------------------------------------------------------------------------------


def _score(url: str, label: str, around: str) -> float:
    """Return how likely the link is what the message asks for: see the table above."""
    address = url[:300].lower()
    _, _, rest = address.partition("://")
    host, _, path = rest.partition("/")
    path = path.partition("?")[0] if len(path) > 200 else path
    said = f"{label} {around}".lower() if len(label) < _SHORT else label[:120].lower()
    near = f"{said} /{path}"
    if _LEAVING.occur_in(near):
        return 0.1
    if _ELSEWHERE.occur_in(address) or _OPENED.search(address):
        return 0.15
    asks = _ACTION.occur_in(near)
    if not asks and _FOOTER.occur_in(near):
        return 0.2
    if _FILE.search(address.partition("?")[0]):
        return 0.3
    token = 0.1 if _TOKEN.search(url[len(host) :][:300]) else 0.0
    if asks:
        return round(0.8 + token, 2)
    return 0.35 if not path and "?" not in host else round(0.5 + token, 2)
