"""What was asked for one pod: an address, a MAC, by way of CNI_ARGS, `args.cni` or `runtimeConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cni_plugin.conf.plugin import NetConf
from cni_plugin.conf.reading import invalid
from cni_plugin.errors import INVALID_ENVIRONMENT, CniError
from cni_plugin.spec import parse_args


class Wish(NamedTuple):
    """What was asked for one pod: by CNI_ARGS, `args.cni` or `runtimeConfig`, later ones going before."""

    ips: tuple[str, ...]
    mac: str


def wish(conf: NetConf, args: Mapping[str, str]) -> Wish:
    """The addresses and the MAC asked for. Raises CniError 4 for unknown CNI_ARGS, 7 for what does not parse.

    What addresses may look like an IPAM knows alone: `static` takes a list of them in one IP=.
    """
    _check_args(args)
    ips = (*_one(args.get("IP", "")), *conf.args.cni.ips, *conf.runtime_config.ips)
    mac = conf.runtime_config.mac or conf.args.cni.mac or args.get("MAC", "") or conf.mac
    return Wish(ips, _mac(mac) if mac else "")


def passed_over(args: str) -> str:
    """CNI_ARGS of which no plugin need refuse any: pairs that are whole, and what it does not know passed over."""
    return ";".join(f"{key}={value}" for key, value in {**parse_args(args, strict=False), "IgnoreUnknown": "1"}.items())


def _one(text: str) -> tuple[str, ...]:
    return (text,) if text else ()


def _mac(text: str) -> str:
    parts = text.lower().replace("-", ":").split(":")
    good = len(parts) == 6 and all(len(each) == 2 and set(each) <= set("0123456789abcdef") for each in parts)
    if not good or int(parts[0], 16) & 1:
        raise invalid("mac", text, "write six hexadecimal bytes, the first of them even: a unicast address")
    return ":".join(parts)


_KNOWN_ARGS = {"IgnoreUnknown", "IP", "MAC", "GATEWAY"}
"""GATEWAY is for the reference's `static` IPAM, which we may delegate to."""


def _check_args(args: Mapping[str, str]) -> None:
    unknown = sorted(key for key in args if key not in _KNOWN_ARGS)
    if unknown and args.get("IgnoreUnknown", "").lower() not in ("1", "true"):
        raise CniError(
            INVALID_ENVIRONMENT,
            f"CNI_ARGS: unknown args [{', '.join(unknown)}]; remove them, or add IgnoreUnknown=1",
        )


