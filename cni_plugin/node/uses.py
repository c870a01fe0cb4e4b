"""What attachments want together of what they share: their bridges, and the MTU of their cluster. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from cni_plugin.conf.plugin import NetConf
from cni_plugin.model.base import State
from cni_plugin.model.layer3 import Addr
from cni_plugin.plugins import Plugin
from cni_plugin.wirings.contract import Base, Wiring


class Use(NamedTuple):
    """What attachments want of a bridge. `created` is the time of the newest of them; `mtu` in bytes."""

    created: float
    bridge: str
    gateways: tuple[str, ...]
    mtu: int
    plugin: Plugin


def bridges(uses: Iterable[Use]) -> dict[str, State]:
    """What each bridge must be for the attachments on it: where they differ, what the newest one's ADD made of it."""
    found: dict[str, State] = {}
    in_order = sorted(uses, key=lambda each: each.created)
    for use in in_order:
        conf, wiring = use.plugin.conf, use.plugin.wiring
        if not use.bridge or wiring is None:
            continue
        forced = in_order if wiring.forces(conf) else ()
        others = {gateway for each in forced if each.plugin.conf.name != conf.name for gateway in each.gateways}
        base = Base(conf, use.bridge, use.gateways, use.mtu)
        found[use.bridge] = _joined(found.get(use.bridge, {}), wiring, base, others)
    return found


def follows(conf: NetConf) -> bool:
    """Whether pods of this configuration get the MTU that a cluster leaves: nobody fixed another one."""
    return conf.cluster is not None and not conf.mtu


def _joined(known: State, wiring: Wiring, base: Base, others: Collection[str]) -> State:
    """What another use adds: addresses stand side by side (failure 10) unless `forceAddress` puts earlier ones out,

    which it does with its own network's: not with those, which are other networks' gateways.
    """
    present = (each.address for each in known.values() if isinstance(each, Addr) and each.address not in others)
    out = wiring.displaced(base, present)
    kept = {key: each for key, each in known.items() if key not in out}
    return {**kept, **wiring.adopt(wiring.host(base), kept)}
