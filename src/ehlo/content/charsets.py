"""From bytes and the name of a charset to text, the way that mail really uses the names.

The labels of the WHATWG Encoding Standard come first, since mail says `gb2312` and means GBK, or
`iso-8859-1` and means windows-1252. Then come the names that Python knows, then windows-1252.
Nothing here raises, and everything takes time in proportion to the bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from encodings.aliases import aliases
from functools import cache
from types import MappingProxyType
from typing import Final

# Encoding Standard 4.2, "Names and labels": the labels of each codec. Left out is `replacement`,
# which shows nothing: its labels are names that Python knows.
_WHATWG: Final[Mapping[str, str]] = MappingProxyType(
    {
        "utf-8": "unicode-1-1-utf-8 unicode11utf8 unicode20utf8 utf-8 utf8 x-unicode20utf8",
        "cp866": "866 cp866 csibm866 ibm866",
        "iso8859-2": "csisolatin2 iso-8859-2 iso-ir-101 iso8859-2 iso88592 iso_8859-2 "
        "iso_8859-2:1987 l2 latin2",
        "iso8859-3": "csisolatin3 iso-8859-3 iso-ir-109 iso8859-3 iso88593 iso_8859-3 "
        "iso_8859-3:1988 l3 latin3",
        "iso8859-4": "csisolatin4 iso-8859-4 iso-ir-110 iso8859-4 iso88594 iso_8859-4 "
        "iso_8859-4:1988 l4 latin4",
        "iso8859-5": "csisolatincyrillic cyrillic iso-8859-5 iso-ir-144 iso8859-5 iso88595 "
        "iso_8859-5 iso_8859-5:1988",
        "iso8859-6": "arabic asmo-708 csiso88596e csiso88596i csisolatinarabic ecma-114 "
        "iso-8859-6 iso-8859-6-e iso-8859-6-i iso-ir-127 iso8859-6 iso88596 iso_8859-6 "
        "iso_8859-6:1987",
        "iso8859-7": "csisolatingreek ecma-118 elot_928 greek greek8 iso-8859-7 iso-ir-126 "
        "iso8859-7 iso88597 iso_8859-7 iso_8859-7:1987 sun_eu_greek",
        "iso8859-8": "csiso88598e csisolatinhebrew hebrew iso-8859-8 iso-8859-8-e iso-ir-138 "
        "iso8859-8 iso88598 iso_8859-8 iso_8859-8:1988 visual csiso88598i iso-8859-8-i logical",
        "iso8859-10": "csisolatin6 iso-8859-10 iso-ir-157 iso8859-10 iso885910 l6 latin6",
        "iso8859-13": "iso-8859-13 iso8859-13 iso885913",
        "iso8859-14": "iso-8859-14 iso8859-14 iso885914",
        "iso8859-15": "csisolatin9 iso-8859-15 iso8859-15 iso885915 iso_8859-15 l9",
        "iso8859-16": "iso-8859-16",
        "koi8-r": "cskoi8r koi koi8 koi8-r koi8_r",
        "koi8-u": "koi8-ru koi8-u",
        "mac-roman": "csmacintosh mac macintosh x-mac-roman",
        "cp874": "dos-874 iso-8859-11 iso8859-11 iso885911 tis-620 windows-874",
        "cp1250": "cp1250 windows-1250 x-cp1250",
        "cp1251": "cp1251 windows-1251 x-cp1251",
        "cp1252": "ansi_x3.4-1968 ascii cp1252 cp819 csisolatin1 ibm819 iso-8859-1 iso-ir-100 "
        "iso8859-1 iso88591 iso_8859-1 iso_8859-1:1987 l1 latin1 us-ascii windows-1252 x-cp1252",
        "cp1253": "cp1253 windows-1253 x-cp1253",
        "cp1254": "cp1254 csisolatin5 iso-8859-9 iso-ir-148 iso8859-9 iso88599 iso_8859-9 "
        "iso_8859-9:1989 l5 latin5 windows-1254 x-cp1254",
        "cp1255": "cp1255 windows-1255 x-cp1255",
        "cp1256": "cp1256 windows-1256 x-cp1256",
        "cp1257": "cp1257 windows-1257 x-cp1257",
        "cp1258": "cp1258 windows-1258 x-cp1258",
        "mac-cyrillic": "x-mac-cyrillic x-mac-ukrainian",
        "gb18030": "chinese csgb2312 csiso58gb231280 gb2312 gb_2312 gb_2312-80 gbk iso-ir-58 "
        "x-gbk gb18030",
        "big5hkscs": "big5 big5-hkscs cn-big5 csbig5 x-x-big5",
        "euc-jp": "cseucpkdfmtjapanese euc-jp x-euc-jp",
        "iso-2022-jp": "csiso2022jp iso-2022-jp",
        "cp932": "csshiftjis ms932 ms_kanji shift-jis shift_jis sjis windows-31j x-sjis",
        "cp949": "cseuckr csksc56011987 euc-kr iso-ir-149 korean ks_c_5601-1987 ks_c_5601-1989 "
        "ksc5601 ksc_5601 windows-949",
        "utf-16-be": "unicodefffe utf-16be",
        "utf-16-le": "csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff utf-16 utf-16le",
        "latin-1": "x-user-defined",
    }
)
_LABELS: Final[Mapping[str, str]] = MappingProxyType(
    {label: codec for codec, labels in _WHATWG.items() for label in labels.split()}
)

# Codecs of Python's that make no text from bytes, or take the square of their number
_NOT_FOR_MAIL: Final = frozenset(
    (
        *("base64_codec", "bz2_codec", "hex_codec", "idna", "mbcs", "oem", "punycode"),
        *("quopri_codec", "raw_unicode_escape", "rot_13", "undefined", "unicode_escape"),
        *("uu_codec", "zlib_codec"),
    )
)
_FALLBACK: Final = "cp1252"
_WITH_SURROGATES: Final = "utf_7"
_LONGEST_LABEL: Final = 64
_PUNCTUATION: Final = re.compile("[^a-z0-9]+")
# Encodings of these bytes mean something else than ASCII, line ends included
_WIDE: Final = ("utf-16", "utf-32", "utf_16", "utf_32", "cp037", "cp273", "cp424", "cp5", "cp1026")


def decode_text(data: bytes, label: str) -> str:
    """Decode `data`, which is said to be in the charset `label` (empty when nothing is said).

    A byte that means nothing in that charset is shown as U+FFFD.
    """
    if not data:
        return ""
    codec = _codec_of(label) if label else None
    if codec is None or label.lower().strip() in ("us-ascii", "ascii"):
        # Many senders of UTF-8 say nothing, or `us-ascii`
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            codec = _FALLBACK
    if codec == "iso-2022-jp":
        return _decode_iso_2022_jp(data)
    if codec == "euc-jp":
        return _decode_euc_jp(data)
    if codec.startswith("utf-16"):
        codec, data = _by_byte_order_mark(codec, data)
    text = data.decode(codec, "replace").removeprefix("\ufeff")
    if codec == _WITH_SURROGATES:  # half a character, which nothing can write
        return text.encode("utf-8", "replace").decode()
    return text


def is_ascii_compatible(label: str) -> bool:
    """Return whether CR, LF and what is ASCII are themselves in the charset `label`."""
    codec = _codec_of(label)
    return codec is None or not codec.startswith(_WIDE)


def _codec_of(label: str) -> str | None:
    """Return the name of a codec; `None` for a label that says nothing."""
    name = label.strip().lower()
    if not name or len(name) > _LONGEST_LABEL:
        return None
    if name in _LABELS:
        return _LABELS[name]
    bare = _PUNCTUATION.sub("", name.removesuffix("-ms"))
    return _python_codecs().get(bare)


@cache
def _python_codecs() -> Mapping[str, str]:
    """Return Python's text codecs by their names without punctuation.

    They are looked up here and not by `codecs.lookup`, which remembers each unknown name for ever.
    """
    names = {**{codec: codec for codec in aliases.values()}, **aliases}
    found = {
        _PUNCTUATION.sub("", name): codec
        for name, codec in names.items()
        if codec not in _NOT_FOR_MAIL
    }
    # Labels without their punctuation come before Python's names: `iso8859-8-i`, `gb2312-ms`
    return {**found, **{_PUNCTUATION.sub("", label): codec for label, codec in _LABELS.items()}}


def _by_byte_order_mark(codec: str, data: bytes) -> tuple[str, bytes]:
    if data.startswith(b"\xfe\xff"):
        return "utf-16-be", data[2:]
    if data.startswith(b"\xff\xfe"):
        return "utf-16-le", data[2:]
    return codec, data


# -- Japanese --------------------------------------------------------------------------------------

# ISO-2022-JP switches between ASCII, JIS X 0201 and JIS X 0208, which senders extend by the rows of
# cp932. Python's own codec has no such rows.
_ESCAPE: Final = re.compile(rb"\x1b(\$[@B]|\$\(D|\([BJI])")
_KATAKANA: Final = bytes.maketrans(bytes(range(0x21, 0x60)), bytes(range(0xA1, 0xE0)))


def _decode_iso_2022_jp(data: bytes) -> str:
    if data.count(b"\x1b") <= 20 + len(data) // 16:
        return _decode_by_runs(data)
    # Python's own codec is faster where one run after the other is short
    return data.decode("iso2022_jp_1", "replace")


def _decode_by_runs(data: bytes) -> str:
    text = io.StringIO()
    decode: Callable[[bytes], str] = _decode_ascii
    at = 0
    for escape in _ESCAPE.finditer(data):
        if escape.start() > at:
            text.write(decode(data[at : escape.start()]))
        decode, at = _AFTER_ESCAPE.get(escape[1], _decode_ascii), escape.end()
    text.write(decode(data[at:]))
    return text.getvalue()


def _decode_ascii(run: bytes) -> str:
    return run.decode("ascii", "replace")


def _decode_katakana(run: bytes) -> str:
    return run.translate(_KATAKANA).decode("cp932", "replace")


def _decode_jis_x_0212(run: bytes) -> str:
    return (b"\x1b$(D" + run).decode("iso2022_jp_1", "replace")


def _decode_jis_x_0208(run: bytes) -> str:
    """Decode pairs of bytes; a line end among them ends a line, as broken mail has it."""
    if b"\n" not in run:
        return run.decode("utf-16-be", "replace").translate(_jis_pairs())
    return "\n".join(_decode_jis_x_0208(line.removesuffix(b"\r")) for line in run.split(b"\n"))


_AFTER_ESCAPE: Final[Mapping[bytes, Callable[[bytes], str]]] = MappingProxyType(
    {
        b"$@": _decode_jis_x_0208,
        b"$B": _decode_jis_x_0208,
        b"$(D": _decode_jis_x_0212,
        b"(I": _decode_katakana,
    }
)


@cache
def _jis_pairs() -> Mapping[int, str]:
    """Return the character of each pair of bytes, by the number that both make."""
    pairs = {}
    for row in range(0x21, 0x7F):
        for cell in range(0x21, 0x7F):
            # The arithmetic of Shift_JIS: two rows share a lead byte
            lead = (row + 1) // 2 + (0x70 if row <= 0x5E else 0xB0)
            trail = cell + (0x7E if row % 2 == 0 else 0x1F if cell < 0x60 else 0x20)
            pairs[row << 8 | cell] = bytes((lead, trail)).decode("cp932", "replace")[:1]
    return pairs


def _decode_euc_jp(data: bytes) -> str:
    """Decode strictly, or else with the extensions of JIS X 0213, which has NEC's row 13."""
    try:
        return data.decode("euc-jp")
    except UnicodeDecodeError:
        return data.decode("euc_jis_2004", "replace")
