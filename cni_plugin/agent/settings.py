"""What an operator may set of the agent: /etc/tulle/agent.json, every key optional.

    {"metrics": "127.0.0.1:9472", "interval": 60, "grace": 300, "log": "info"}
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.kernel import files

DEFAULT_PATH = "/etc/tulle/agent.json"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`metrics`: an address of loopback, "" for none; `interval` and `grace` in seconds.

    `interval` is the time between two looks at everything; an attachment whose sandbox is gone is collected `grace`
    after that was first seen.
    """

    metrics: str = ""
    interval: Annotated[float, msgspec.Meta(ge=1)] = 60.0
    grace: Annotated[float, msgspec.Meta(ge=0)] = 300.0
    log: Literal["error", "warn", "info", "debug"] = "info"


def load(path: str) -> Settings:
    """The settings in a file; the defaults when there is none. Raises CniError 7, OSError."""
    try:
        data = files.follow(path)
    except FileNotFoundError:
        return Settings()
    try:
        return msgspec.json.decode(data, type=Settings)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CniError(
            INVALID_CONFIG, f"invalid {path}: {error}; its keys are metrics, interval, grace and log"
        ) from error
