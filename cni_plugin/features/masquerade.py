"""`ipMasq`: what pods send to outside of the cluster bears the address of the interface that it leaves the node by.

One rule a network and family, however many pods it has; always by nftables, whatever `ipMasqBackend` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import msgspec

from cni_plugin.conf.reading import Conf as Keys
from cni_plugin.features.contract import Asked, NodeFeature, World
from cni_plugin.model.base import State, state
from cni_plugin.model.nft import Chain
from cni_plugin.plan.lease import subnets
from cni_plugin.plan.masquerade import Masquerade, masquerade_chain


class Conf(Keys, frozen=True):
    """The reference plugin's keys."""

    ip_masq: bool = False
    ip_masq_backend: Literal["", "iptables", "nftables"] = ""


class MasqueradeFeature(NodeFeature):
    """A claim names the subnets of one pod; a network's is that of all its pods, with what is inside the cluster."""

    NAME = "masquerade"
    KEYS = Conf
    CLAIM = Masquerade
    NEEDS: ClassVar[Mapping[str, str]] = {
        "nf_tables": "ipMasq is done by nftables",
        Chain.MADE_BY: "ipMasq is done by nftables, and without it pods do not reach the outside",
    }

    def wanted(self, conf: Conf) -> bool:
        """`ipMasq`."""
        return conf.ip_masq

    def claim(self, conf: Conf, asked: Asked) -> Masquerade | None:
        """Of a pod with addresses, where it is wanted."""
        wanted = conf.ip_masq and asked.previous.ips
        return Masquerade(subnets(asked.previous.ips), asked.inside) if wanted else None

    def state(self, world: World) -> State:
        """The chain of all networks."""
        networks = {name: each for name, each in world.networks.items() if isinstance(each, Masquerade)}
        return state([masquerade_chain(networks)]) if networks else {}

    def joined(self, known: Masquerade, claim: Masquerade) -> Masquerade:
        """Both."""
        return known.joined(claim)

    def places(self) -> State:
        """The chain."""
        return state([masquerade_chain({})])

    def ready(self, claim: Masquerade, name: str, have: State) -> bool:
        """Whether the network's own rules are among those that stand."""
        want = masquerade_chain({name: claim})
        there = have.get(want.key)
        return isinstance(there, Chain) and there.hook == want.hook and set(want.rules) <= set(there.rules)

    def kept(self, claim: Masquerade) -> msgspec.Raw:
        """What is inside the cluster is the network's to know: on one pod's record it would be for nothing."""
        return msgspec.Raw(msgspec.json.encode(Masquerade(claim.subnets)))


feature = MasqueradeFeature()
