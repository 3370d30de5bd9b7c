"""What is redacted wherever it is shown, unless a project's settings say otherwise."""

from __future__ import annotations

#: Names whose values never leave the payload, wherever they appear as an argument
#: or as a key in one.
REDACTED_NAMES = (
    "password",
    "passwd",
    "secret",
    "token",
    "access_token",
    "refresh_token",
    "api_key",
    "apikey",
    "authorization",
    "credentials",
    "private_key",
    "card_number",
    "cvv",
    "iban",
    "ssn",
)
