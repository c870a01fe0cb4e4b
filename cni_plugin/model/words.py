"""What the words of `ip`, `bridge`, `ethtool` and `nft` have in common, for the kinds that speak in them."""

from __future__ import annotations

from cni_plugin.model.base import POD

ADD = {"create": "add", "change": "replace", "delete": "del"}
"""How `ip` calls what is done to addresses and routes."""


def ip(ns: str) -> str:
    """`ip` in a namespace; `POD` stands for the pod's."""
    return "ip -n POD" if ns == POD else "ip"


def pairs(*given: tuple[str, object]) -> str:
    """Words with their values, those left out of which nothing is asked."""
    return "".join(f" {word} {value}" for word, value in given if value not in ("", 0, -1))


def on(flag: bool) -> str:
    """A flag as `bridge` and `ethtool` take it."""
    return "on" if flag else "off"
