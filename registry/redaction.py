"""Redaction of passwords, tokens and keys in texts that are shown or stored.

    postgresql://me:hunter2@host/db      postgresql://me:***@host/db
    http://sk-123@host:5000              http://***@host:5000
    sqlite:///x.db?password=hunter2      sqlite:///x.db?password=***
    Authorization: Bearer sk-123         Authorization: Bearer ***
    hunter2, if it is $MLFLOW_TRACKING_PASSWORD                ***

The surrounding text stays, so that a message still names its server or file. Every `RlreadyError`
is redacted when it is created, because libraries quote URIs too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"

# No pattern starts with a repetition, and all are bounded: long texts take milliseconds.
_NAME = (
    r"(?:passw(?:or)?d|pwd|passphrase|secret|(?<!eos_)(?<!bos_)(?<!pad_)(?<!unk_)(?<!max_)token"
    r"|(?:api|access|private)[_-]?key|credentials?|signature)"
)
_WHOLE_NAME = rf"[\w.\-]{{0,64}}{_NAME}"
_SECRET_VARIABLE = re.compile(
    r"(.*_)?(PASSWORD|PASSWD|PGPASSWORD|TOKEN|SECRET|API_KEY|SECRET_KEY|ACCESS_KEY)"
)
_MIN_CHARACTERS = 4
"""Shorter secrets are hidden inside a URI only, not wherever the same letters occur."""

_USER = r"(?P<before>://[^\s:/?#@'\"]{0,256}:)(?!\d+(?:[/?#\s]|$))"
"""The part of a URI before its password; a port is not a password."""

# A password may contain `@`, `/`, quotes and even spaces. Too much is hidden
# rather than too little.
_IN_URI = (
    re.compile(rf"\A[\w+.\-]{{1,32}}{_USER}(?P<secret>.{{1,1024}})(?=@)", re.DOTALL),
    re.compile(rf"{_USER}(?P<secret>[^\s'\"]{{1,1024}}(?=@)|\S{{1,1024}}?(?=@))"),
    re.compile(r"(?P<before>\bhttps?://)(?P<secret>[^\s:/?#@'\"]{1,1024})(?=@)", re.IGNORECASE),
    re.compile(
        rf"(?P<before>(?:{_NAME}|(?<=[?&])(?:key|sig|auth|pass|pw))(?:=|%3D))"
        r"(?P<secret>[^\s&;,'\"#)\]}]+)",
        re.IGNORECASE,
    ),
)
_ELSEWHERE = (
    re.compile(
        rf"(?P<before>['\"]{_WHOLE_NAME}['\"]\s?[:=,]\s?(?P<mark>['\"]))"
        r"(?P<secret>.{1,1024}?)(?P=mark)",
        re.IGNORECASE,
    ),
    re.compile(
        r"(?P<before>\bauthorization['\"]?\s?[:=,]\s?['\"]?(?:\w{1,32}\s)?)(?P<secret>[^\s'\"]+)",
        re.IGNORECASE,
    ),
    re.compile(
        r"(?P<before>\b(?:Bearer|Basic)\s)"
        r"(?P<secret>(?=[\w\-.~+/]{0,256}[A-Z0-9])[\w\-.~+/]{8,}=*)"
    ),
)


def redacted(text: str, *uris: str | None) -> str:
    """Return the text with `***` for every password, token and key in it.

    Args:
        text: to be shown or stored.
        uris: their secrets are hidden wherever they occur in the text, decoded or not, in addition
            to those of the environment (`*_PASSWORD`, `*_TOKEN`, `*_API_KEY`, ...).
    """
    for secret in _secrets(uris):
        # Whole words only: the password `post` does not hide part of `posterior`.
        text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(secret)}(?![A-Za-z0-9])", HIDDEN, text)
    for pattern in (*_IN_URI, *_ELSEWHERE):
        text = pattern.sub(_hide, text)
    return text


def redacted_values(value: Any) -> Any:
    """Return JSON values with every text redacted, and values under a secret's name hidden."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        name = re.compile(_WHOLE_NAME, re.IGNORECASE)
        return {
            key: HIDDEN
            if isinstance(inner, str) and inner and name.fullmatch(str(key))
            else redacted_values(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [redacted_values(inner) for inner in value]
    return value


def has_secret(uri: str) -> bool:
    """Return whether a URI holds a password, token or key."""
    return any(pattern.search(uri) for pattern in _IN_URI)


def _hide(match: re.Match[str]) -> str:
    start, end = (place - match.start() for place in match.span("secret"))
    return match[0][:start] + HIDDEN + match[0][end:]


def _secrets(uris: Iterable[str | None]) -> list[str]:
    """Return secrets of the environment and of some URIs, in every spelling, the longest first."""
    variables = [value for name, value in os.environ.items() if _SECRET_VARIABLE.fullmatch(name)]
    mlflow_uris = map(os.environ.get, ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"))
    in_uris = [
        match["secret"]
        for uri in (*uris, *mlflow_uris)
        for pattern in _IN_URI
        for match in pattern.finditer(uri or "")
    ]
    spellings = {spelling for one in (*variables, *in_uris) for spelling in _spellings(one)}
    long = (one for one in spellings if len(one) >= _MIN_CHARACTERS and one != HIDDEN)
    return sorted(long, key=len, reverse=True)


def _spellings(secret: str) -> set[str]:
    plain = unquote(secret)
    return {secret, plain, unquote_plus(secret), quote(plain, safe=""), quote_plus(plain)}
