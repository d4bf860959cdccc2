"""Settings with which programs send their mail to an inbox, by framework."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from ehlo.net import Peer
from ehlo.testing.offer import Offer

Framework = Literal["django", "flask", "fastapi", "env"]


def settings_of(
    framework: str, offer: Offer, address: Peer, url: str, authority: Callable[[], str]
) -> dict[str, Any]:
    """Return the settings for a framework.

    `authority` returns the path of the certificate authority in PEM. Raises `ValueError` for an
    unknown framework.
    """
    host, port = address
    user, password = offer.first_login or ("", "")
    tls, implicit = offer.starttls, offer.implicit_tls
    match framework:
        case "django":
            return {
                "EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
                "EMAIL_HOST": host,
                "EMAIL_PORT": port,
                "EMAIL_HOST_USER": user,
                "EMAIL_HOST_PASSWORD": password,
                "EMAIL_USE_TLS": tls,
                "EMAIL_USE_SSL": implicit,
            }
        case "flask":
            return {
                "MAIL_SERVER": host,
                "MAIL_PORT": port,
                "MAIL_USERNAME": user or None,
                "MAIL_PASSWORD": password or None,
                "MAIL_USE_TLS": tls,
                "MAIL_USE_SSL": implicit,
                "MAIL_SUPPRESS_SEND": False,  # otherwise nothing is sent with TESTING
            }
        case "fastapi":
            return {
                "MAIL_SERVER": host,
                "MAIL_PORT": port,
                "MAIL_USERNAME": user,
                "MAIL_PASSWORD": password,
                "MAIL_STARTTLS": tls,
                "MAIL_SSL_TLS": implicit,
                "USE_CREDENTIALS": bool(user),
                **({"CERT_BUNDLE": authority()} if tls or implicit else {}),
            }
        case "env":
            variables = {"SMTP_HOST": host, "SMTP_PORT": str(port), "SMTP_URL": url}
            if user:
                variables |= {"SMTP_USERNAME": user, "SMTP_PASSWORD": password}
            if tls or implicit:
                variables |= {"SSL_CERT_FILE": authority()}  # OpenSSL's, so for any program
            return variables
        case _:
            known = "django, flask, fastapi or env"
            raise ValueError(f"framework is {framework!r}; it must be {known}")
