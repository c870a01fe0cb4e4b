"""Who may speak through a tunnel: peers, by the addresses that they are reached at; pods, and anybody else, never.

What a tunnel's port takes it believes: its device has no word with which to tell a peer's packet from a pod's
(RFC 7348, section 7). So two chains look at what bears the port, and the mark of our own tunnel, such as its VNI: other
people's tunnels at the same port are let be, and so is everything else that a node is sent. The peers are a set that
changes by its elements. What a pod sends to a peer's port is held up where it leaves, before masquerading makes it look
like its node's own.

    chain input4_1 { type filter hook input priority filter;
        meta l4proto != udp accept
        udp dport != 8472 accept
        meta nfproto ipv4 @th,96,24 1 iifname "tulle*" counter drop
        meta nfproto ipv4 @th,96,24 1 meta iifkind { "bridge", "vlan" } iifname != { "eth0" } counter drop
        meta nfproto ipv4 @th,96,24 1 ip saddr != @peers4_1 counter drop }
    chain forward4_1 { the same with `ip daddr @peers4_1` }

Pods are behind bridges and their VLANs, whoever made those; a bridge or VLAN that leads to peers is one of the uplinks.
"""

from __future__ import annotations

from cni_plugin.backends.contract import Gate, Me
from cni_plugin.cluster import Node
from cni_plugin.marks import DEVICE
from cni_plugin.model.base import Object, State, state
from cni_plugin.model.nft import Chain, Element, Set, comment
from cni_plugin.plan.masquerade import own_name

_HOOKS = ("input", "forward")
_WORDS = {4: ("ip", "ipv4_addr"), 6: ("ip6", "ipv6_addr")}


def watched(me: Me, gate: Gate) -> State:
    """The set without peers, and the chains that look into it."""
    family = me.underlay.version
    _, kind = _WORDS[family]
    chains = (
        Chain(f"{hook}{family}_{gate.name}", f"type filter hook {hook} priority filter; policy accept;",
              _rules(me, gate, to_peers=hook == "forward"))
        for hook in _HOOKS
    )
    return state([Set(_set(me, gate), kind), *chains])


def admitted(me: Me, peer: Node, gate: Gate) -> State:
    """A peer among those who may."""
    address = peer.address(me.underlay.version)
    return state([Element(_set(me, gate), str(address))] if address is not None else [])


def places(device: str) -> State:
    """Where something of nft's may stand for a tunnel's device: what to look at when all of it is to go."""
    name = device.partition(".")[2]
    found: list[Object] = []
    for family, (_, kind) in _WORDS.items():
        found += Set(f"peers{family}_{name}", kind), *(Chain(f"{hook}{family}_{name}", "") for hook in _HOOKS)
    return state([*found, Chain(own_name(device), "")])


def _set(me: Me, gate: Gate) -> str:
    return f"peers{me.underlay.version}_{gate.name}"


def _rules(me: Me, gate: Gate, *, to_peers: bool) -> tuple[str, ...]:
    family = me.underlay.version
    word, _ = _WORDS[family]
    peers = f"@{_set(me, gate)}"
    ours = f"meta nfproto ipv{family} {gate.mark}" + (f" {word} daddr {peers}" if to_peers else "")
    uplinks = ", ".join(f'"{each}"' for each in me.leading)
    return (
        comment("meta l4proto != udp accept", "no tunnel"),
        comment(f"udp dport != {gate.port} accept", "another port"),
        comment(f'{ours} iifname "{DEVICE}*" counter drop', "from pods"),
        comment(f'{ours} meta iifkind {{ "bridge", "vlan" }} iifname != {{ {uplinks} }} counter drop', "from pods"),
        comment(f"{ours} {word} saddr != {peers} counter drop", "from no peer"),
    )
