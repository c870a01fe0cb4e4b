"""What goes wrong with the Kubernetes API, in words that hold no secret."""

from __future__ import annotations

import httpx2
import msgspec
from lightkube import ConfigError

_LONGEST_MESSAGE = 300


class ApiError(Exception):
    """The API could not be asked, or did not do what it was asked; the text is for people."""


class Gone(ApiError):
    """The version to go on from is forgotten there (410): all must be listed again."""


class Refused(ApiError):
    """The server answers, and will not do this for us: a right is missing, or it does not know such objects (4xx)."""


def worded(error: Exception) -> str:
    """What happened, for people. Only texts that are known to hold no secret are passed on."""
    if isinstance(error, ApiError):
        return str(error)
    if isinstance(error, ConfigError | httpx2.TransportError | OSError | msgspec.MsgspecError):
        text = "" if isinstance(error, httpx2.LocalProtocolError) else str(error)
        return short(text or type(error).__name__)
    return type(error).__name__


def short(text: str) -> str:
    """Words of others in a message of ours."""
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[: _LONGEST_MESSAGE - 3]}..."
