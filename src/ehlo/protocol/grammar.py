"""The ABNF of SMTP as named pieces of regular expression, each under its rule.

Every piece is linear: no two adjacent pieces can match the same character, or the first of them is
possessive, so that no input makes a match look at a character more than a few times.

Where RFC 6531 adds UTF8-non-ascii to a rule, the class says which ASCII characters are out: a
class that named the others would take long to compile.
"""

import re

# RFC 5322 3.2.3: atext; RFC 6531 3.3: atext =/ UTF8-non-ascii
ATEXT = r'[^\x00-\x20"(),.:;<>@\[\\\]\x7f]'

# RFC 5321 4.1.2: Dot-string = Atom *("." Atom)
DOT_STRING = rf"{ATEXT}++(?:\.{ATEXT}++)*+"

# RFC 5321 4.1.2: Quoted-string = DQUOTE *QcontentSMTP DQUOTE
#   qtextSMTP = %d32-33 / %d35-91 / %d93-126 (and UTF8-non-ascii); quoted-pairSMTP = %d92 %d32-126
QUOTED_STRING = r'"(?:[^\x00-\x1f"\\\x7f]|\\[ -~])*+"'

# RFC 5321 4.1.2: Local-part = Dot-string / Quoted-string
LOCAL_PART = rf"(?:{DOT_STRING}|{QUOTED_STRING})"

# RFC 5321 4.1.2: sub-domain = Let-dig [Ldh-str]; RFC 6531 3.3: sub-domain =/ U-label.
# The underscore is accepted too: real hosts have it, and a rejection helps no one.
LET_DIG = r"[^\x00-/:-@\[-^`{-\x7f]"
SUB_DOMAIN = rf"{LET_DIG}++(?:-++{LET_DIG}++)*+"
DOMAIN = rf"{SUB_DOMAIN}(?:\.{SUB_DOMAIN})*+"

# RFC 5321 4.1.3: address-literal =
#   "[" ( IPv4 / "IPv6:" IPv6 / Standardized-tag ":" 1*dcontent ) "]"
# What stands inside is looked at by `address.is_address_literal`.
ADDRESS_LITERAL = r"\[[!-Z^-~]++\]"

DOMAIN_NAME = re.compile(DOMAIN)
LITERAL = re.compile(ADDRESS_LITERAL)

# RFC 5321 4.1.2: Mailbox = Local-part "@" ( Domain / address-literal )
MAILBOX = rf"(?P<local>{LOCAL_PART})@(?P<domain>{DOMAIN}|{ADDRESS_LITERAL})"

# RFC 5321 4.1.2: A-d-l = At-domain *( "," At-domain ); At-domain = "@" Domain
SOURCE_ROUTE = rf"@(?:{DOMAIN}|{ADDRESS_LITERAL})(?:,@(?:{DOMAIN}|{ADDRESS_LITERAL}))*+:"

# With `lenient_addresses`: dots anywhere, no domain, and no brackets
LENIENT_LOCAL = rf"(?:\.*+{ATEXT}(?:{ATEXT}|\.)*+|{QUOTED_STRING}(?=@))"
LENIENT_DOMAIN = rf"[.\-]*+{LET_DIG}(?:{LET_DIG}|[.\-])*+"
LENIENT_MAILBOX = (
    rf"(?P<local>{LENIENT_LOCAL})(?:@(?P<domain>{LENIENT_DOMAIN}|{ADDRESS_LITERAL}))?+"
)

# What stands between the brackets when it is no path: up to ">" outside quotes
ANY_PATH = re.compile(r'<(?:[^"<>\\]++|"(?:[^"\\]|\\.)*+")*+>')

# RFC 5321 4.1.2: esmtp-param = esmtp-keyword ["=" esmtp-value]
#   esmtp-keyword = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")
#   esmtp-value = 1*(%d33-60 / %d62-126) ; RFC 6531 3.3: / UTF8-non-ascii
# and "=", which only the values of some parameters may have (`parameters.read`)
ESMTP_PARAM = re.compile(r"([A-Za-z0-9][A-Za-z0-9\-]*+)(?:=([^\x00-\x20\x7f]++))?")

# RFC 3461 4: xtext = *( xchar / hexchar ); hexchar = "+" 2(%x30-39 / %x41-46)
# Real clients also write lower-case hexadecimal, and "=" as it is (VERP addresses have one).
XTEXT = re.compile(r"(?:[!-*,-~]|\+[0-9A-Fa-f]{2})*+")
HEXCHAR = re.compile(r"\+([0-9A-Fa-f]{2})")

# The same with UTF-8 in it, as bytes or as hexchar
UTF8_XTEXT = re.compile(r"(?:[^\x00-\x20+=\x7f]|\+[0-9A-Fa-f]{2})++")
HEX_OCTET = re.compile(rb"\+([0-9A-Fa-f]{2})")

# RFC 6533 3: utf-8-addr-xtext carries EmbeddedUnicodeChar = "\x{" HEXPOINT "}", which is a control,
# one of SP + = \ DEL, or beyond ASCII, without leading zeros and without surrogates
HEXPOINT = (
    r"(?i:[01][1-9]|10|20|2B|3D|7F|5C|[89A-F][0-9A-F]|[1-9A-F][0-9A-F]{2}"
    r"|[1-9A-CEF][0-9A-F]{3}|D[0-7][0-9A-F]{2}|[1-9A-F][0-9A-F]{4}|10[0-9A-F]{4})"
)
EMBEDDED_UNICODE = re.compile(rf"\\x\{{({HEXPOINT})\}}")
#   utf-8-addr-xtext = 1*( QCHAR / EmbeddedUnicodeChar )
#   utf-8-addr-unitext = 1*( QUCHAR / EmbeddedUnicodeChar )
#   QCHAR = %x21-2a / %x2c-3c / %x3e-5b / %x5d-7e; QUCHAR = QCHAR / UTF8-2 / UTF8-3 / UTF8-4
# and "=", as in xtext
UTF8_ADDR = re.compile(rf"(?:[^\x00-\x20+\\\x7f]|\\x\{{{HEXPOINT}\}})++")

# RFC 3461 4.2: addr-type = atom
ADDR_TYPE = re.compile(r"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]++")

# RFC 3030 2: bdat-cmd = "BDAT" SP chunk-size [SP end-marker] CR LF
#   chunk-size = 1*DIGIT, here 1*20DIGIT; end-marker = "LAST"
CHUNK = re.compile(r"([0-9]{1,20})(?: +((?i:LAST)))?")

# A command of a user's own, as it is compared: in upper case
OWN_VERB = re.compile(r"[A-Z][A-Z0-9\-]{2,31}")

# XCLIENT, XFORWARD: a TCP port
PORT = re.compile(r"[0-9]{1,5}")

# RFC 1870 4: size-value = 1*20DIGIT (str.isdigit would take other scripts' digits)
SIZE_VALUE = re.compile(r"[0-9]{1,20}")

# RFC 5321 4.1.1.1: ehlo-keyword = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-"); said in upper case
EHLO_KEYWORD = re.compile(r"[A-Z0-9][A-Z0-9\-]*+")

# RFC 2852 4: by-value = by-time ";" by-mode [by-trace]; by-time = ["-" / "+"] 1*9DIGIT
BY_VALUE = re.compile(r"([+\-]?[0-9]{1,9});([NR])(T?)", re.IGNORECASE | re.ASCII)

# RFC 2852 2: min-by-time = [1*9DIGIT]
SECONDS = re.compile(r"[0-9]{1,9}")

# RFC 4865 3: future-release-integer = %x31-39 *8DIGIT
HOLD_FOR = re.compile(r"[1-9][0-9]{0,8}")

# RFC 6710 7: priority-value = (["-"] NZDIGIT) / "0"
PRIORITY = re.compile(r"-?[1-9]|0")

# RFC 3339 5.6: date-time = full-date "T" full-time
DATE_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"([Zz]|[+\-][0-9]{2}:[0-9]{2})"
)

# A name that stands as one word in a reply, a header and a log line
HELLO_NAME = re.compile(r"[!-~]{1,255}")

# RFC 4954 4: base64 = base64-terminal / ( 1*(4base64-CHAR) [base64-terminal] )
BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")

# RFC 5802 7: saslname = 1*(value-safe-char / "=2C" / "=3D")
SASLNAME = r"(?:[^\0,=]|=2C|=3D)++"

# What no client text may carry into a header, a reply or a log line
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

# What makes text look like other text, by its direction (Unicode's Bidi_Control)
DIRECTION = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def from_xtext(value: str | None) -> str:
    """Decode an xtext (RFC 3461 4). Raises `ValueError`."""
    if not value or XTEXT.fullmatch(value) is None:
        raise ValueError("not xtext")
    text = HEXCHAR.sub(lambda match: chr(int(match[1], 16)), value)
    if CONTROL.search(text):
        raise ValueError("control characters in xtext")
    return text
