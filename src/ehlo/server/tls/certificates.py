"""TLS contexts that can be reloaded while the server runs: from files, or a user's function.

A new context is built and checked completely before it replaces the old one, and the old one stays
if that fails. A connection keeps the context that it began with. A context that a user has made is
never reloaded.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

from ehlo import paths
from ehlo.server.observing import journal
from ehlo.server.tls.binding import dns_names, end_point_binding, first_certificate
from ehlo.server.tls.channel import LoadedContext

TLSConfig = ssl.SSLContext | Callable[[], ssl.SSLContext]
"""A context, or a function that returns one."""

SETTLED: Final = 2_000_000_000  # nanoseconds that files must be unchanged before they are reloaded

MAKE_EVERY: Final = 60.0  # seconds between two calls of a user's function

# Settings that a user may change on a context made here, and that the next one must have
_KEPT: Final = (
    *("options", "minimum_version", "maximum_version", "verify_mode", "verify_flags"),
    "num_tickets",
)

Stamp = tuple[int, ...] | None
"""A value that changes when the file does; `None` if there is none."""


@dataclass(frozen=True)
class Certificate:
    """Holds the arguments of one call of `configure_tls`."""

    cert_file: str
    key_file: str
    passphrase: str | bytes | None = field(default=None, repr=False)
    client_ca: str | None = None
    client_certs: Literal["optional", "required"] = "optional"

    def __post_init__(self) -> None:
        if self.client_certs not in ("optional", "required"):
            raise ValueError(
                f"client_certs is {self.client_certs!r}; it must be 'optional' or 'required'"
            )
        if self.client_certs == "required" and self.client_ca is None:
            raise ValueError("client_certs is 'required'; pass the client_ca that issues them")

    @property
    def files(self) -> tuple[str, ...]:
        """The files that are read."""
        return (self.cert_file, self.key_file, *([self.client_ca] if self.client_ca else []))


class FileContext(LoadedContext):
    """Holds a context from files, and the facts from which it can be made again."""

    certificates: tuple[Certificate, ...] = ()
    stamps: tuple[Stamp, ...] = ()
    """The stamps of the files, from before they were read."""
    others: tuple[FileContext, ...] = ()
    """The contexts of the other certificates, for clients that ask for one of their names."""

    def set_ciphers(self, ciphers: str, /) -> None:
        """Set the ciphers in all contexts, since the one that a name chooses applies."""
        super().set_ciphers(ciphers)
        for each in self.others:
            each.set_ciphers(ciphers)

    def __reduce__(self) -> tuple[Callable[..., FileContext], tuple[object, ...]]:
        """Return how to make it again in another process: from the files, with the settings."""
        return _made_again, (self.certificates, _settings_of(self))


def file_context(certificates: tuple[Certificate, ...]) -> FileContext:
    """Return a context for a server: at least TLS 1.2, otherwise with Python's defaults.

    The first certificate is the default; the others are chosen by the name that a client asks for.
    The settings for client certificates apply to all.

    Raises `OSError` if a file cannot be read, `ssl.SSLError` if it has the wrong content, and
    `ValueError` if one of the others has no DNS name.
    """
    stamps = _stamps(certificates)
    first, *others = contexts = [_loaded(each, certificates) for each in certificates]
    for certificate, other in zip(certificates[1:], others, strict=True):
        if not other.names:
            raise ValueError(
                f"{certificate.cert_file} has no DNS name; only the first certificate may lack one"
            )
    first.sni_callback = _chooser(contexts)
    first.certificates, first.stamps, first.others = certificates, stamps, tuple(others)
    return first


def _loaded(certificate: Certificate, all_of_them: tuple[Certificate, ...]) -> FileContext:
    context = FileContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Without a passphrase OpenSSL would ask for one on the terminal, and the server would hang
    passphrase = "" if certificate.passphrase is None else certificate.passphrase
    try:
        with paths.held(certificate.cert_file) as cert, paths.held(certificate.key_file) as key:
            context.load_cert_chain(cert, key, passphrase)
            der = first_certificate(cert)
    except (OSError, ValueError) as error:
        note = f"{certificate.cert_file} with {certificate.key_file}"
        if certificate.key_file == certificate.cert_file and isinstance(error, ssl.SSLError):
            note += "; set tls_key if the key is in another file"
        elif certificate.passphrase is None and isinstance(error, ssl.SSLError):
            with contextlib.suppress(OSError), paths.held(certificate.key_file) as key:
                if is_encrypted(Path(key).read_bytes()):
                    note += "; the key is encrypted: call configure_tls with its passphrase"
        error.add_note(note)
        raise
    if der is not None:
        context.end_point, context.names = end_point_binding(der), dns_names(der)
    for each in all_of_them:
        if each.client_ca is not None:
            try:
                with paths.held(each.client_ca) as authorities:
                    context.load_verify_locations(authorities)
            except OSError as error:
                error.add_note(each.client_ca)
                raise
    context.verify_mode = _verify_mode(all_of_them)
    return context


def is_encrypted(pem: bytes) -> bool:
    """Return whether a PEM file with this content has a key that only a passphrase opens."""
    return b"BEGIN ENCRYPTED PRIVATE KEY-----" in pem or b"Proc-Type: 4,ENCRYPTED" in pem


def _verify_mode(certificates: tuple[Certificate, ...]) -> ssl.VerifyMode:
    asks = {each.client_certs for each in certificates if each.client_ca is not None}
    if not asks:
        return ssl.CERT_NONE
    return ssl.CERT_REQUIRED if "required" in asks else ssl.CERT_OPTIONAL


def with_another(given: FileContext, new: Certificate) -> FileContext:
    """Return a context with one more certificate, and the settings of `given`.

    Raises as `file_context` does.
    """
    by_file = {each.cert_file: each for each in (*given.certificates, new)}
    certificates = tuple(by_file.values())
    settings = _settings_of(given)
    if given.verify_mode == _verify_mode(given.certificates):  # it is not the user's setting
        settings["verify_mode"] = _verify_mode(certificates)
    return _made_again(certificates, settings)


_Chooser: TypeAlias = Callable[[ssl.SSLObject, str | None, ssl.SSLContext], None]


def _chooser(contexts: list[FileContext]) -> _Chooser:
    """Return a callback that notes the name that a client asks for, and chooses the certificate.

    RFC 6125 6.4: full names first, then those whose first label is `*`, which stands for one label.
    """
    by_name: dict[str, FileContext] = {}
    for context in contexts:
        for name in context.names:
            by_name.setdefault(name, context)

    def choose(tls: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        tls.ehlo_sni = name  # type: ignore[attr-defined]  # lives as long as its connection
        wanted = (name or "").lower()
        found = by_name.get(wanted) or by_name.get(f"*.{wanted.partition('.')[2]}")
        if found is not None:
            tls.context = found

    return choose


class Holder:
    """Holds the context of new handshakes, and reloads it. Its methods may block."""

    def __init__(self, config: TLSConfig) -> None:
        """Raises what a user's function raises, and as `_made` and `_checked` do."""
        self._make = None if isinstance(config, ssl.SSLContext) else config
        self._shown: bytes | None = None  # the certificate of the context that `_make` made last
        self._made_at = time.monotonic()
        self.current: ssl.SSLContext = (
            _checked(config) if isinstance(config, ssl.SSLContext) else self._made(config)
        )
        self._trouble = ""  # the reason that was logged last
        if self._has_changed():
            self.renew()  # since `configure_tls`, or since the server ran before

    @property
    def is_watched(self) -> bool:
        """Whether the context can change: it comes from files, or a function."""
        return isinstance(self.current, FileContext) or self._make is not None

    def look(self) -> bool:
        """Reload what has changed, and return whether that worked.

        Files are reloaded once they no longer change. A function is called once a minute, and its
        context is used if it has another certificate. The same failure is logged once.
        """
        if self._make is None:
            return self._reload() if self._has_changed() else True
        if time.monotonic() - self._made_at < MAKE_EVERY:
            return True
        return self._reload(another=True)

    def renew(self) -> bool:
        """Reload the context, and return whether that worked.

        A failure is logged each time, and the old context stays in use.
        """
        self._trouble = ""
        return self._reload()

    def _has_changed(self) -> bool:
        current = self.current
        if self._make is not None or not isinstance(current, FileContext):
            return False
        stamps = _stamps(current.certificates)
        return stamps != current.stamps and not any(map(_is_young, stamps))

    def _reload(self, *, another: bool = False) -> bool:
        """Reload; with `another`, only a context with another certificate."""
        before = self._shown
        try:
            new = self._new()
        except Exception as error:  # noqa: BLE001  a user's function may raise anything
            self._note(error)
            return False
        self._trouble = ""
        if new is None or (another and before == self._shown):
            return True
        self.current = new
        if self._make is not None:
            journal.reloaded("tls_config")
        elif isinstance(new, FileContext):
            files = " ".join(each.cert_file for each in new.certificates)
            journal.reloaded("certificates", files=files)
        return True

    def _new(self) -> ssl.SSLContext | None:
        if self._make is not None:
            return self._made(self._make)
        old = self.current
        if not isinstance(old, FileContext):
            return None
        new = _made_again(old.certificates, _settings_of(old))
        if new.stamps != _stamps(new.certificates):
            raise ValueError("files changed while they were read")
        return new

    def _made(self, make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        """Call `make`, and check its context.

        Raises what `make` raises, `TypeError` if it returns no context, and `ValueError` for a
        context that no client can use.
        """
        self._made_at = time.monotonic()
        made = make()
        if not isinstance(made, ssl.SSLContext):
            raise TypeError(
                f"tls_config returned {type(made).__name__}; it must return an ssl.SSLContext"
            )
        try:
            self._shown = _try(made)
        except ssl.SSLError as error:
            reason = error.reason or str(error)
            message = f"tls_config returned a context that no client can use: {reason}"
            raise ValueError(message) from error
        return made

    def _note(self, error: Exception) -> None:
        if self._make is not None:
            what, reason = "tls_config", repr(error)
        else:
            where = "".join(f"{note}: " for note in getattr(error, "__notes__", ()))
            what, reason = "certificates", f"{where}{error}"
        if reason != self._trouble:
            journal.reload_failed(what, reason, error if self._make is not None else None)
        self._trouble = reason


def _checked(context: ssl.SSLContext) -> ssl.SSLContext:
    """Return the user's context. Raises `ValueError` for one that no client can use.

    One that chooses the certificate by the client's name may have none without a name.
    """
    if isinstance(context, FileContext) or context.sni_callback is not None:
        return context
    if context.protocol is ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError(
            "tls_config is a context for clients; write ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)"
        )
    try:
        _try(context)
    except ssl.SSLError as error:
        reason = error.reason or str(error)
        raise ValueError(
            f"no client can use the context in tls_config ({reason}); load its certificate by "
            "load_cert_chain"
        ) from error
    return context


def _try(context: ssl.SSLContext) -> bytes | None:
    """Do a handshake in memory with a client that accepts any certificate, and return it.

    Returns `None` if it is unknown. Raises `ssl.SSLError`.
    """
    lenient = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    lenient.check_hostname, lenient.verify_mode = False, ssl.CERT_NONE
    lenient.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    lenient.set_ciphers("ALL:@SECLEVEL=0")
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(up, down, server_side=True)
    client = lenient.wrap_bio(down, up)
    for side in (client, server) * 4:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError as error:  # the client has none, which is no failure here
            if error.reason != "PEER_DID_NOT_RETURN_A_CERTIFICATE":
                raise
            break
    with contextlib.suppress(ValueError):  # TLS 1.2 has not got so far without the client's
        return client.getpeercert(binary_form=True)
    return None


def _settings_of(context: ssl.SSLContext) -> dict[str, object]:
    """Return the settings that a user may have changed, in a form that can be pickled."""
    settings: dict[str, object] = {name: getattr(context, name) for name in _KEPT}
    ciphers = [each["name"] for each in context.get_ciphers()]
    settings["ciphers"] = ":".join(name for name in ciphers if not name.startswith("TLS_"))
    return settings


def _made_again(
    certificates: tuple[Certificate, ...], settings: Mapping[str, object]
) -> FileContext:
    """Return a context with these certificates and settings."""
    context = file_context(certificates)
    for name in _KEPT:
        setattr(context, name, settings[name])
    if settings["ciphers"]:
        context.set_ciphers(str(settings["ciphers"]))
    return context


def _stamps(certificates: tuple[Certificate, ...]) -> tuple[Stamp, ...]:
    """Return the stamps of the files, following links, so that a changed link is a change."""
    return tuple(paths.stamp_at(name) for each in certificates for name in each.files)


def _is_young(stamp: Stamp) -> bool:
    """Return whether the file may still be being written."""
    return stamp is not None and 0 <= time.time_ns() - stamp[0] < SETTLED
