"""`Code`: the one-time codes in a message, the best one first.

A candidate is, in the subject and in the text of a message:

- four to eight digits: `482913`; in two or three groups of the same length, with blanks or dashes
  between: `482 913`, `48-29-13`; or one by one: `4 8 2 9 1 3`. Digits of other scripts count, and
  `text` has them in ASCII, without blanks and dashes. One to three capital letters and a dash may
  stand before them: `G-482913`.
- five to ten letters and digits, both of them: `7F3K9Q`, `A1B2-C3D4`.
- four to eight capital letters, also in two groups: `WDJB-MJHT`.

A part of something longer is never a candidate: a price, a percentage, a measure, a date, a
time, a version, a telephone number, a card number, a color (`#336699`), a number with a unit
(`1440 minutes`), an address of the web or of mail, an IP address.

A label decides about a candidate. It is a word for a code in one of many languages (`code`, `OTP`,
`PIN`, `TAN`, `Einmalkennwort`, `código`, `コード`, `認証番号`, `验证码`, `인증번호`, `код`),
unless it belongs to another code (`zip code`, `Gutscheincode`, `エラーコード`).

| Score | The label stands |
|---|---|
| 0.95 | before the candidate in its line, at most 40 characters away |
| 0.9 | after it in its sentence, at most 60 characters away |
| 0.85 | above, at most 300 characters away, and the candidate has a line of its own |
| 0.75 | below, at most 100 characters away, and the candidate has a line of its own |
| 0.6 | before it in its line, farther away |
| 0.55 | nowhere near, but the line asks to enter the candidate, or to log in with it |
| 0.5 | in the subject, and the candidate has a line of its own |

Then six digits add 0.04. Letters and digits lose 0.05, capital letters alone 0.15, and a year (1900
to 2099) 0.5. A candidate that stays below 0.42 is not a code.

A candidate is dropped

- if a word for another number stands directly before it: `order 482913`, `Kundennummer: 482913`,
  `注文番号 482913`; or if the label is one for another code;
- if it has four or five digits, no label close before it, and a place behind it (`10115 Berlin`,
  `1600 Market Street`), or a state before it (`CA 94103`).

Only the first 65,536 characters of a text are searched, and of these one candidate for each 100.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Final, NamedTuple

LONGEST_TEXT: Final = 65_536
"""Characters of a text that are searched for codes."""
_LEAST: Final = 0.42
_BEHIND: Final = 200  # characters behind a candidate: a label may begin in the first 100

_CANDIDATE: Final = re.compile(
    r"""
    (?<![A-Za-z0-9_\u00c0-\u1fff$€£¥₩₽#+./%&@~\\-]) (?=[A-Za-z\d]) (?<!\d[:,]|\#\s)
    (?:
      (?P<prefixed> [A-Z]{1,3}-\d{4,8} )
    | (?P<grouped>
        \d{3}[ \-]\d{3} (?:[ \-]\d{3})? | \d{4}[ \-]\d{4} | \d\d[ \-]\d\d (?:[ \-]\d\d){1,2}
      )
    | (?P<single> \d (?:[ ]\d){3,7} )
    | (?P<digits> \d{4,8} )
    | (?P<mixed>
        (?=[A-Za-z\-]{0,9}\d)
        (?: [A-Z0-9]{5,10} | [a-zA-Z0-9]{6,10} | [A-Z0-9]{3,5}-[A-Z0-9]{3,5} ) (?!-?[A-Za-z0-9])
      )
    | (?P<letters> [A-Z]{3,4}-[A-Z]{3,4} | [A-Z]{4,8} )
    )
    (?! [A-Za-z0-9_\u00c0-\u1fff] | [-/:.,]\d | \s?[%‰°€$£¥₩₽] | @ )
    """,
    re.VERBOSE,
)
# Digits and blanks as they are in ASCII; two characters of Japanese and of typography
_PLAIN: Final = MappingProxyType(
    {base + digit: 48 + digit for base in (0xFF10, 0x660, 0x6F0, 0x966) for digit in range(10)}
    | dict.fromkeys((0xA0, 0x2007, 0x2009, 0x202F, 0x3000), ord(" "))
    | dict.fromkeys((0x2010, 0x2011, 0x2012, 0x2013, 0x2212, 0xFF0D), ord("-"))
    | {0xFF1A: ord(":"), 0xFF0B: ord("+"), 0xFF20: ord("@"), 0xFF03: ord("#")}
)
_FOREIGN: Final = re.compile("[" + "".join(map(chr, _PLAIN)).replace("-", "") + "]")
_UNIT: Final = re.compile(
    r"""\s?(?:px|em|pt|mm|cm|km|m²|kg|g|ml|l|mb|gb|kb|tb|mib|kib|ms|kwh|w|x|×|
    eur|usd|gbp|chf|jpy|cny|inr|kr|sek|nok|dkk|zł|pln|руб|euro|dollars?|円|元|원|圓|
    年|月|日|時|分|秒|件|名|人|個|点|ポイント|
    h|hrs?|hours?|min|mins|minutes?|sec|seconds?|days?|weeks?|months?|years?|
    stunden?|minuten?|tagen?|sekunden?|jahren?|uhr|heures?|jours?|ans|minuti|ore|giorni|horas?|
    minutos?|días|dias|people|users|points?|punkte|items?|times|views|steps|followers|miles|
    lines|bytes|words|seats|stars|reviews|coins|credits|likes|characters|zeichen)(?![a-zäöü])""",
    re.VERBOSE | re.IGNORECASE,
)
_CURRENCY: Final = re.compile(r"(?:[$€£¥₩₽]|eur|usd|gbp|chf|jpy|inr|rs\.?|kr)\s?\Z", re.IGNORECASE)
_MORE_DIGITS_BEFORE: Final = re.compile(r"(?:\d\d|\d\)|\+\d|\(\d+)[ ]?\Z|\d[ ][A-Z]?\Z")
_MORE_DIGITS_AFTER: Final = re.compile(r"[ ]\d{3}|[ ]\d\d[ ]\d\d|[ ]?\([0-9]")
_A_PLACE: Final = re.compile(r"[ ][A-ZÄÖÜÉ][a-zà-ÿß]{2,}")
_STATE: Final = re.compile(r"(?:\b[A-Z]{2}|\b[A-Z]{1,2}-|〒) ?\Z")
_YEAR: Final = re.compile(r"(?:19|20)\d\d")
_AROUND: Final = " \t>*_|[](){}<:.\"'`-=\u2192\u300c\u300d\u3010\u3011"


def _split(text: str) -> tuple[str, ...]:
    return tuple(word.replace("_", " ") for word in text.split())


def _by_first_letter(words: Iterable[str]) -> str:
    """Return an expression for the words: one without groups took three times as long."""
    rests: dict[str, list[str]] = {}
    for word in words:
        rests.setdefault(word[0], []).append(word[1:])
    return "|".join(f"{first}(?:{'|'.join(each)})" for first, each in rests.items())


# Words for other numbers, and what joins them to the number
_OTHERS: Final = _split(
    r"order invoice receipt ticket case booking reservation shipment parcel package reference"
    r" ref customer client account member(?:ship)? policy contract serial model part item sku"
    r" article version build release port room suite box zip postcode postal_code extension ext"
    r" phone tel telephone mobile fax call dial text issue pull_request pr bug"
    r" confirmation_number tracking_number end(?:s|ing)_(?:in|with) last_(?:four|4)(?:_digits)?"
    r" error http status since copyright bestell(?:ung|nummer|nr) auftrag(?:snummer|snr)?"
    r" rechnung(?:snummer|snr)? kunden(?:nummer|nr) vertrags(?:nummer|nr) sendungs(?:nummer|nr)"
    r" vorgang(?:snummer)? aktenzeichen artikel(?:nummer|nr)? buchungs(?:nummer|nr)"
    r" mitglieds(?:nummer|nr) konto(?:nummer|nr)? telefon(?:nummer)? hotline rufnummer plz"
    r" postfach hrb hra steuernummer blz seit endet_auf commande facture client réservation"
    r" dossier colis référence réf compte contrat téléphone tél siret siren rcs numéro n°"
    r" depuis pedido factura reserva cliente teléfono ordine fattura cliente bestelling factuur"
    r" klantnummer zamówienie faktura faktury заказ заказа №"
)
_OTHER_NUMBER: Final = re.compile(
    rf"""(?:
    \b(?-x:{_by_first_letter(_OTHERS)})
    (?:[ -](?:no|nr|num|number|nummer|id|code|n°|numéro|\#))?
    |(?:注文|予約|受付|会員|お客様|問い合わせ|問合せ|伝票|請求書|請求|商品|電話|郵便|追跡|整理|管理|
    顧客|口座|订单|訂單|快递|
    客户|电话|
    邮编|주문|예약|송장|우편|고객|전화)(?:番号|号|编号|編號|번호)?|〒|℡|©|\(c\))
    \.?\s*(?:\#|:|=|-|–|is|are|lautet|ist|est|es|è|は|が|：)?\s*[(\["「【]?\s*\Z""",
    re.VERBOSE | re.IGNORECASE,
)


# Words in lower case. `code` stands for its compounds, too: Bestätigungscode, Sicherheitscode.
_FOR_CODES: Final = _split(
    "code codes passcode otp one-time_password one_time_password 2fa mfa pin tan einmalpasswort"
    " einmalkennwort kode kodu koden código codigo códigos codice kod koodi kód koda clave_de"
    " contraseña_temporal mot_de_passe_temporaire mot_de_passe_à_usage senha_temporária"
    " コード 認証番号 確認番号 暗証番号 ワンタイムパスワード 認証キー パスコード 验证码 驗證碼"
    " 校验码 动态码 认证码 確認碼 动态密码 인증번호 인증_번호"
    " 인증코드 인증_코드 보안코드 확인코드 코드"
    " код пароль коду κωδικός κωδικό רמז קוד رمز कोड ओटीपी รหัส"
    " mã_xác mã_otp security_token verification_token"
)
_FOR_OTHERS: Final = _split(
    "zip_code postal_code postcode zipcode area_code country_code dial_code dialing_code promo_code"
    " promotion_code promotional_code discount_code coupon_code voucher_code gift_code"
    " gift_card_code referral_code invite_code invitation_code error_code status_code exit_code"
    " response_code source_code qr_code qr-code bar_code barcode dress_code product_code"
    " item_code article_code color_code tracking_code booking_code order_code sort_code swift_code"
    " bank_code tax_code style_code code_review code_of code_base codebase code_editor code_sample"
    " code_change code_example unicode decode encode geocode codec"
    " postleitzahl gutscheincode gutschein-code rabattcode rabatt-code aktionscode promocode"
    " promo-code"
    " promotioncode fehlercode ländercode quellcode strichcode farbcode artikelcode buchungscode"
    " code_postal code_promo code_de_réduction code_réduction code_avantage code_article code_barre"
    " code_erreur code_source code_couleur código_postal código_promocional código_de_descuento"
    " código_de_barras codice_sconto codice_postale codice_fiscale codice_promozionale kortingscode"
    " rabattkod rabatkode kod_rabatowy kod_pocztowy промокод クーポンコード エラーコード 商品コード"
    " プロモーションコード 紹介コード 割引コード qrコード バーコード ソースコード"
    " 銀行コード 优惠码 折扣码 邀请码 二维码"
    " 쿠폰코드 쿠폰_코드 할인코드 할인_코드"
)
_BOUNDED: Final = frozenset(("pin", "tan", "otp", "2fa", "mfa"))
# Names, measures and ordinal numbers: iPhone14, user1234, 1200px, 1920x1080, 21st
_SENTENCE: Final = re.compile(r"[.!?]\s|[。！？]")
_WORDLIKE: Final = re.compile(r"[A-Za-z]?[a-z]{2,}[0-9]+|[0-9]+[a-zA-Z]{1,4}|[0-9]+x[0-9]+")
# Behind a word in ASCII letters: a longer word, a name in a program
_LONGER: Final = re.compile(r"[a-z_(]|\.[a-z]")
_ENTERING: Final = _split(
    "enter_ use_ type_ log_in login sign_in sign-in signin verify authenticat eingeben geben_sie"
    " anmeld einlogg saisi utilis entrez connecter introduz ingres inserisc voer_ 入力 ログイン"
    " 輸入 输入 입력"
)
# Letters in such a line are for a shop
_BARGAIN: Final = re.compile(
    r"[0-9] ?%|discount|checkout|coupon|voucher|promo|\bsale\b|rabatt|gutschein|réduction|remise"
    r"|descuento|sconto|korting|割引|クーポン|セール|优惠|折扣|할인|쿠폰",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Code:
    r"""A one-time code in a message.

    Example:

        >>> from ehlo.content import read_content
        >>> (code,) = read_content(b"Subject: Log in\n\nYour code: 482 913").codes
        >>> code.text, code.score
        ('482913', 0.99)
    """

    text: str
    """The code as a person enters it: digits without the blanks and dashes between them."""
    score: float
    """How likely it is a code, from 0 to 1."""


class _Label(NamedTuple):
    """A word that says what a number is."""

    start: int
    end: int
    is_code: bool


def find_codes(subject: str, texts: Iterable[str]) -> list[Code]:
    """Return the codes in a subject and in texts, the best first, then in their order."""
    subject = _plain(subject)
    hints = any(label.is_code for label in _labels(subject.lower()))
    found: dict[str, Code] = {}
    for text in (subject, *map(_plain, texts)):
        for code in _codes_in(text, hints=hints and text is not subject):
            known = found.setdefault(code.text, code)
            if known.score < code.score:
                found[code.text] = code
    return sorted(found.values(), key=lambda code: -code.score)


def _plain(text: str) -> str:
    """Return the part of a text that is searched, with plain digits, blanks and dashes."""
    text = text[:LONGEST_TEXT]
    return text if text.isascii() or not _FOREIGN.search(text) else text.translate(_PLAIN)


def _codes_in(text: str, *, hints: bool) -> list[Code]:
    matches = list(islice(_CANDIDATE.finditer(text), 20 + len(text) // 100))
    if not matches:
        return []
    labels = _labels(text[: matches[-1].end() + _BEHIND].lower())
    found = []
    for match in matches:
        candidate = _Candidate(text, match.start(), match.end(), match.lastgroup or "", labels)
        score = candidate.score(hints=hints)
        if score >= _LEAST:
            found.append(Code(candidate.code, round(score, 2)))
    return found


class _Candidate:
    """Judges one candidate by what stands around it; looks at a few hundred characters at most."""

    def __init__(self, text: str, start: int, end: int, kind: str, labels: list[_Label]) -> None:
        self._text = text
        self._start = start
        self._end = end
        self._kind = kind
        self._labels = labels
        window = text[max(0, start - 100) : start]
        self._before = window[window.rfind("\n") + 1 :]
        self._after = text[end : end + 80].partition("\n")[0]

    @property
    def code(self) -> str:
        """The code as a person enters it."""
        shown = self._text[self._start : self._end]
        if self._kind in ("grouped", "single"):
            return shown.replace(" ", "").replace("-", "")
        return shown.rpartition("-")[2] if self._kind == "prefixed" else shown

    def score(self, *, hints: bool) -> float:
        """Return how likely it is a code; 0 for what is none.

        `hints` says whether the subject speaks of a code.
        """
        base = self._base(hints=hints)
        if base < _LEAST or self._is_other():
            return 0.0
        code = self.code
        if self._kind == "letters":
            return base - 0.15
        if self._kind == "mixed":
            return base - 0.05 if code.isdigit() or not code.islower() or base >= 0.85 else 0.0
        if len(code) == 6:
            return base + 0.04
        return base - 0.5 if _YEAR.fullmatch(code) else base

    def _is_other(self) -> bool:
        """Return whether it is, or belongs to, something else than a code."""
        before, after = self._before, self._after
        token = before[-64:].rpartition(" ")[2]
        if "://" in token or "@" in token or "www." in token or token.endswith(("/", "?", "&")):
            return True
        if "@" in after[:64].partition(" ")[0] or _CURRENCY.search(before[-5:]):
            return True
        if self._kind in ("mixed", "letters"):
            if _WORDLIKE.fullmatch(self.code) or _BARGAIN.search(before + after):
                return True
        else:
            if _UNIT.match(after) or _MORE_DIGITS_AFTER.match(after):
                return True
            if _MORE_DIGITS_BEFORE.search(before[-24:]):
                return True
        if self._kind == "digits" and self._end - self._start <= 5:
            if _STATE.search(before[-4:]):
                return True
            if self._labelled_before() > 8 and _A_PLACE.match(after):
                return True
        return _OTHER_NUMBER.search(before[-48:]) is not None

    def _labelled_before(self) -> int:
        """Return how far away the last label in the line is; 1,000 if there is none."""
        at = bisect_left(self._labels, (self._start,)) - 1
        if at < 0 or self._labels[at].start < self._start - len(self._before):
            return 1_000
        return self._start - self._labels[at].end

    def _base(self, *, hints: bool) -> float:
        """Return the score by the labels around: see the table above."""
        labels, start, end = self._labels, self._start, self._end
        at = bisect_left(labels, (start,))
        last = labels[at - 1] if at else None
        while at < len(labels) and labels[at].start < end:  # in the candidate itself
            at += 1
        following = labels[at] if at < len(labels) else None
        above = 1_000 if last is None else start - last.end
        below = 1_000 if following is None else following.start - end
        if last is not None and last.start >= start - len(self._before):
            near = 0.95 if above <= 40 else 0.6
            return near if last.is_code else 0.0
        if following is not None and below <= 60 and self._is_in_sentence(below):
            return 0.9 if following.is_code else 0.0
        if self._is_alone():
            if last is not None and above <= 300:
                return 0.85 if last.is_code else 0.0
            if following is not None and below <= 100:
                return 0.75 if following.is_code else 0.0
            if hints and self._kind != "letters":
                return 0.5
        return 0.55 if self._is_to_enter() else 0.0

    def _is_in_sentence(self, below: int) -> bool:
        """Return whether what stands so many characters behind belongs to the sentence."""
        return below < len(self._after) and _SENTENCE.search(self._after[:below]) is None

    def _is_to_enter(self) -> bool:
        line = f"{self._before}{self._after}".lower()
        long = len(self.code) >= 5 and self.code.isdigit()
        return long and any(word in line for word in _ENTERING)

    def _is_alone(self) -> bool:
        return not self._before.strip(_AROUND) and not self._after.strip(_AROUND)


def _labels(text: str) -> list[_Label]:
    """Return the labels in a text in lower case, in their order."""
    found = []
    others = sorted(_places(text, _FOR_OTHERS))
    starts = [start for start, _ in others]
    found += [_Label(start, end, is_code=False) for start, end in others]
    for start, end in _places(text, _FOR_CODES):
        at = bisect_right(starts, start) - 1
        if at < 0 or others[at][1] < end:
            found.append(_Label(start, end, is_code=True))
    return sorted(found)


def _places(text: str, words: tuple[str, ...]) -> list[tuple[int, int]]:
    """Return where the words stand."""
    found = []
    for word in words:
        at = text.find(word)
        short, in_ascii = word in _BOUNDED, word.isascii()
        while at >= 0:
            end = at + len(word)
            bounded = short and at > 0 and text[at - 1].isalnum()
            if not bounded and not (in_ascii and _LONGER.match(text, end)):
                found.append((at, end))
            at = text.find(word, end)
    return found
