"""Requests that the agent served, as it remembers them and as a bundle carries them.

The agent's own struct may know more; what this tool does not know is ignored, what is missing has a default, so that
a tool and an agent, or a bundle, of different releases understand each other.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import msgspec

from cni_plugin import decoding
from cni_plugin.ctl.ask import ask
from cni_plugin.errors import DECODING_FAILURE, INVALID_CONFIG, CniError
from cni_plugin.kernel.host import files

MEMBER = "requests.json"
"""The file in a bundle."""


class Served(msgspec.Struct, frozen=True):
    """One request and its answer. `seconds` from arrival to reply, `steps` in seconds by name."""

    verb: str = ""
    name: str = "tulle"
    network: str = ""
    container: str = ""
    ifname: str = ""
    code: int = 0
    message: str = ""
    at: float = 0.0
    seconds: float = 0.0
    steps: dict[str, float] = {}
    environ: dict[str, str] = {}
    stdin: str = ""
    stdout: str = ""


def recent(run_dir: str) -> list[Served]:
    """The agent's last requests, oldest first. Raises AgentAway."""
    return _typed(ask(run_dir, "requests"), "the agent's answer")


def bundled(path: str) -> list[Served]:
    """The requests in a bundle, or in a file of JSON. Raises CniError 6 or 7."""
    try:
        data = files.follow(path)
    except OSError as error:
        raise CniError(INVALID_CONFIG, f"{path!r}: {error.strerror}; name a bundle that can be read") from error
    try:
        return _typed(decoding.decode(_member(data) if data[:2] == b"\x1f\x8b" else data), path)
    except msgspec.MsgspecError as error:
        raise CniError(DECODING_FAILURE, f"{path!r} holds no requests: {error}") from error


def numbered(requests: Sequence[Served], number: int) -> Served:
    """Number 1 is the last one. Raises CniError 7."""
    if not 1 <= number <= len(requests):
        raise CniError(INVALID_CONFIG, f"there is no request {number}: 1 (the last) to {len(requests)} are there")
    return requests[-number]


def _typed(shape: object, where: str) -> list[Served]:
    try:
        return msgspec.convert(shape, list[Served])
    except msgspec.ValidationError as error:
        raise CniError(DECODING_FAILURE, f"{where} is no list of requests: {error}") from error


def _member(data: bytes) -> bytes:
    import tarfile  # 10 ms, and only for a bundle

    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            for each in archive:
                if each.isreg() and each.name.rpartition("/")[2] == MEMBER and (file := archive.extractfile(each)):
                    return file.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise CniError(DECODING_FAILURE, f"this is no bundle: {error}") from error
    raise CniError(INVALID_CONFIG, f"there is no {MEMBER} in this bundle: no agent ran when it was made")
