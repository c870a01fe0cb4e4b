"""Reading JSON that people and programs wrote: keys in any case, typed values, complaints that help.

JSON is read as the field's Go programs read it: keys match in any case (containerd really sends `HostPort`),
`null` is absent, of two equal keys the later one holds. Every complaint names the key, the value and the remedy.

    class Options(Conf, frozen=True):
        wire_mtu: int = 0

    typed({"WireMTU": 1400}, Options, "cluster.backend")   ->   Options(wire_mtu=1400)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from cni_plugin import decoding
from cni_plugin.errors import DECODING_FAILURE, INVALID_CONFIG, CniError
from cni_plugin.keys import complaint, strangers


class Conf(msgspec.Struct, frozen=True, rename=lambda field: field.replace("_", ""), kw_only=True):
    """A JSON object whose keys are matched in lower case."""


def decode(data: bytes, where: str = "on stdin") -> Mapping[str, object]:
    """The configuration as plain values, keys as written; `where` it stands is for errors. Raises CniError 6."""
    what = f"the network configuration {where}"
    if not data.strip():
        raise CniError(DECODING_FAILURE, f"there is no network configuration {where}: it must be a JSON object")
    try:
        shape = decoding.decode(data)
    except msgspec.DecodeError as error:
        raise CniError(DECODING_FAILURE, f"{what} is not valid JSON: {error}") from error
    if not isinstance(shape, dict):
        raise CniError(DECODING_FAILURE, f"{what} must be a JSON object")
    return shape


def version_of(raw: Mapping[str, object]) -> str:
    """The `cniVersion` of a configuration; the specification calls an absent one 0.1.0. Raises CniError 6."""
    found = next((each for key, each in reversed(list(raw.items())) if key.lower() == "cniversion" and each), "")
    if not isinstance(found, str):
        raise CniError(DECODING_FAILURE, f'invalid cniVersion {found!r}: it must be a string, such as "1.1.0"')
    return found or "0.1.0"


Shape = TypeVar("Shape")


def fold(value: object) -> object:
    """The same JSON with keys in lower case and without nulls."""
    if isinstance(value, dict):
        return {key.lower(): fold(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [fold(each) for each in value]
    return value


def typed(value: object, shape: type[Shape], at: str = "") -> Shape:
    """A JSON value as a typed one. Raises CniError 7 that names the key as it was written, and the value."""
    try:
        return msgspec.convert(fold(value), shape)
    except msgspec.ValidationError as error:
        raise CniError(INVALID_CONFIG, complaint(error, value, at, shape)) from error


def refuse_strangers(value: object, made: object, at: str = "", *, exact: bool = False) -> None:
    """For settings that are ours alone. Raises CniError 7 for a key that is none of theirs, `made` being the value."""
    for each in strangers(value, made, at=at, exact=exact):
        remedy = f"did you mean {each.meant}?" if each.meant else "remove it"
        raise CniError(INVALID_CONFIG, f"invalid {each.path}: there is no such key; {remedy}")


def invalid(key: str, value: object, remedy: str) -> CniError:
    """The error for a key of the configuration."""
    return CniError(INVALID_CONFIG, f"invalid {key} {value!r}: {remedy}")
