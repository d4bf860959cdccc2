"""JSON in the form of Go's encoder and decoder, which clients of Mailpit's API know.

Out: one line with `<`, `>` and `&` escaped. In: keys match in any case, unknown ones are ignored,
what is missing is the zero value of its type, and a wrong type is an error in Go's words.

A shape is a `TypedDict`. Its fields are `bool`, `int`, `float`, `str`, another shape, and a list or
a dictionary of these.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final, NoReturn, TypeVar, cast, get_args, get_origin, get_type_hints

from ehlo.content.breather import Rest

Shape = TypeVar("Shape")

_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_ESCAPES: Final = (
    *(("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")),
    *(("\u2028", "\\u2028"), ("\u2029", "\\u2029")),
)
_BLANKS: Final = " \t\r\n"
_SLICE: Final = 65_536  # characters that are encoded at once
_BASIC: Final = {bool: "bool", int: "int", float: "float64", str: "string"}


class ShapeError(ValueError):
    """Raised when a request has no JSON, or JSON of a wrong type; the text is as Go has it."""


# -- out -------------------------------------------------------------------------------------------


def to_text(value: object) -> str:
    """Return a value as JSON, so that a page of HTML can contain it."""
    text = _ENCODER.encode(value)
    for character, escape in _ESCAPES:
        if character in text:  # which only strings can have
            text = text.replace(character, escape)
    return text


def in_pieces(value: Mapping[str, object], rest: Rest) -> list[bytes]:
    """Return an object as JSON in one line, in pieces that are not too long."""
    pieces = [b"{"]
    for number, (name, each) in enumerate(value.items()):
        pieces.append(f'{"," if number else ""}"{name}":'.encode())
        if isinstance(each, str) and len(each) > _SLICE:
            slices = (each[at : at + _SLICE] for at in range(0, len(each), _SLICE))
            texts = ['"', *_with_rests((to_text(part)[1:-1] for part in slices), rest), '"']
        elif isinstance(each, list):
            texts = ["[", ",".join(_with_rests(map(to_text, each), rest)), "]"]
        else:
            texts = [to_text(each)]
        pieces += [text.encode("utf-8", "replace") for text in texts]
    return [*pieces, b"}\n"]


def _with_rests(texts: Iterable[str], rest: Rest) -> Iterator[str]:
    for text in texts:
        yield text
        rest()


def to_bytes(text: str) -> bytes:
    """Return JSON as it is sent, in one line."""
    return (text + "\n").encode("utf-8", "replace")


def go_time(moment: float) -> str:
    """Return seconds since the epoch as Go has them: local, to milliseconds, without zeros."""
    return written_time(datetime.fromtimestamp(round(moment * 1_000) / 1_000, UTC).astimezone())


def written_time(moment: datetime) -> str:
    """Return a time in its own zone (RFC 3339), without zeros at the end of its fraction."""
    text = moment.replace(tzinfo=None, microsecond=0).isoformat()
    fraction = f".{moment.microsecond:06}".rstrip("0") if moment.microsecond else ""
    minutes = round((moment.utcoffset() or _NOTHING).total_seconds() / 60)
    zone = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
    return text + fraction + (zone if minutes else "Z")


_NOTHING: Final = timedelta()

# -- in --------------------------------------------------------------------------------------------


def from_json(data: bytes, shape: type[Shape]) -> Shape:
    """Return the value in `data`, which has all the fields of `shape`.

    What stands behind the value is ignored. Raises `ShapeError`.
    """
    text = data.decode("utf-8", "replace").lstrip(_BLANKS)
    if not text:
        raise ShapeError("EOF")
    try:
        value, _ = _DECODER.raw_decode(text)
    except RecursionError:
        raise ShapeError("exceeded max depth") from None
    except json.JSONDecodeError as error:
        raise ShapeError(_complaint(text, error)) from None
    except ValueError as error:  # a number with thousands of digits
        raise ShapeError(str(error)) from None
    return cast(Shape, _read(value, shape, ""))


def _no_constant(name: str) -> NoReturn:
    raise ShapeError(f"invalid character '{name[0]}' looking for beginning of value")


_DECODER: Final = json.JSONDecoder(parse_constant=_no_constant, strict=False)


def _complaint(text: str, error: json.JSONDecodeError) -> str:
    if error.pos >= len(text) or error.msg.startswith("Unterminated"):
        return "unexpected EOF"
    return f"invalid character {text[error.pos]!r} ({error.msg} at offset {error.pos})"


@cache
def _fields_of(shape: type) -> dict[str, tuple[str, Any]]:
    """Return the fields of a shape, with their types, by their names in lower case."""
    return {name.lower(): (name, hint) for name, hint in get_type_hints(shape).items()}


def _read(value: object, hint: Any, path: str) -> object:
    """Return `value` as a value of the type `hint`; `None` gives its zero value."""
    if hint in _BASIC:
        return _READERS[hint](value, path)
    origin = get_origin(hint)
    if value is None and origin is not None:
        return origin()
    if origin is list:
        if not isinstance(value, list):
            _complain(value, hint, path)
        (inner,) = get_args(hint)
        return [_read(each, inner, path) for each in value]
    if value is None:
        value = {}
    if not isinstance(value, dict):
        _complain(value, hint, path)
    if origin is dict:
        inner = get_args(hint)[1]
        return {_clean(name): _read(each, inner, path) for name, each in value.items()}
    fields = _fields_of(hint)
    found = {name: _read(None, inner, "") for name, inner in fields.values()}
    for key, each in value.items():
        if (field := fields.get(key.lower())) is not None and each is not None:
            found[field[0]] = _read(each, field[1], f"{path}.{field[0]}")
    return found


def _read_bool(value: object, path: str) -> bool:
    if value is not None and not isinstance(value, bool):
        _complain(value, bool, path)
    return bool(value)


def _read_int(value: object, path: str) -> int:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        _complain(value, int, path)
    return value or 0


def _read_float(value: object, path: str) -> float:
    if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
        _complain(value, float, path)
    return float(value or 0)


def _read_str(value: object, path: str) -> str:
    if value is not None and not isinstance(value, str):
        _complain(value, str, path)
    return _clean(value or "")


_READERS: Final[dict[type, Callable[[object, str], object]]] = {
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
    str: _read_str,
}


def _clean(text: str) -> str:
    """Return `text` with `?` for lone surrogates, which are no text."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _complain(value: object, hint: Any, path: str) -> NoReturn:
    kind = "object" if isinstance(value, dict) else "array" if isinstance(value, list) else "string"
    if isinstance(value, bool):
        kind = "bool"
    elif isinstance(value, int | float):
        kind = "number"
    where = f"Go struct field {path} of type" if path else "Go value of type"
    raise ShapeError(f"json: cannot unmarshal {kind} into {where} {_go_type(hint)}")


def _go_type(hint: Any) -> str:
    if hint in _BASIC:
        return _BASIC[hint]
    if get_origin(hint) is list:
        return f"[]{_go_type(get_args(hint)[0])}"
    if get_origin(hint) is dict:
        return f"map[string]{_go_type(get_args(hint)[1])}"
    fields = (f"{name} {_go_type(inner)}" for name, inner in _fields_of(hint).values())
    return f"struct {{ {'; '.join(fields)} }}"
