"""The node as it is, beside what the door shows: links, ways, everybody's firewall rules, and who answers out there.

What `tullectl` must ask of the machine itself goes through `Host`; tests put another in its place. Nothing is changed.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Protocol

import msgspec

from cni_plugin.ctl.reach import Probe, Prober
from cni_plugin.kernel.host import files
from cni_plugin.kernel.host.program import run
from cni_plugin.kernel.nft.ruleset import Hook, hooks, listing, rules
from cni_plugin.kernel.see.look import Entry, Link, Sight, Way
from cni_plugin.kernel.see.probe import features
from cni_plugin.model.layer3 import Route

_ANYWHERE = ("192.0.0.8", "100::1")
_SERVICES = {"nftables": " kube-proxy {", "iptables": "chain KUBE-SERVICES "}
"""How kube-proxy calls its table, and its chain where iptables are those of nftables."""
_LEGACY = {"iptables-legacy": "/proc/net/ip_tables_names", "ip6tables-legacy": "/proc/net/ip6_tables_names"}
PATH = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")
"""Where the node's own programs are."""


class Looker(Protocol):
    """A namespace as `kernel.see.look.Sight` shows it."""

    def links(self) -> tuple[Link, ...]:
        """All links."""

    def addresses(self, dev: str) -> tuple[str, ...]:
        """The addresses of a link."""

    def routes(self) -> tuple[Route, ...]:
        """All unicast routes."""

    def way(self, to: str, *, source: str = "", arriving: str = "") -> Way:
        """What would become of a packet."""

    def neighbours(self) -> tuple[Entry, ...]:
        """Neighbour entries."""

    def entries(self) -> tuple[Entry, ...]:
        """Forwarding entries."""


class Host:
    """What there is to look at. Every method raises OSError when it cannot be looked at."""

    def sight(self, netns: str = "") -> AbstractContextManager[Looker]:
        """A namespace, without a path the host's own. Raises NetnsError."""
        return Sight(netns)

    def links(self) -> tuple[Link, ...]:
        """All links."""
        with Sight() as sight:
            return sight.links()

    def uplink(self) -> str:
        """The link that leads away from this node, "" when none does."""
        with Sight() as sight:
            ways = [sight.way(each) for each in _ANYWHERE]
        return next((each.dev for each in ways if each.kind == "unicast"), "")

    def ruleset(self) -> str:
        """All nftables rules."""
        return listing("list ruleset")

    def hooks(self) -> tuple[Hook, ...]:
        """Everybody's base chains; of those that drop what is forwarded also what they accept."""
        return tuple(map(_with_accepts, hooks(self._chains)))

    def services(self) -> tuple[str, ...]:
        """Whose rules lead to the backends of Services, by the chains that they name so."""
        return tuple(f"kube-proxy with {name}" for name, sign in _SERVICES.items() if sign in self._chains)

    @cached_property
    def _chains(self) -> str:
        return listing("list chains")

    def legacy(self) -> tuple[str, ...]:
        """The old iptables' FORWARD policy where their filter table is loaded, "iptables-legacy FORWARD policy DROP".

        A table that accepts and has no rules is nobody's firewall, and is left out.
        """
        found = []
        for name, tables in _LEGACY.items():
            try:
                loaded = "filter" in files.follow(tables).decode().split()
            except FileNotFoundError:
                continue
            path = program(name)
            if loaded and not path:
                found.append(f"{name} FORWARD policy not known: {name} is not installed")
            elif loaded:
                done = run(path, ["-S", "FORWARD"], {"PATH": ":".join(PATH)}, b"", quiet=True)
                lines = done.stdout.decode(errors="replace").splitlines()
                if lines and lines != ["-P FORWARD ACCEPT"]:
                    found.append(f"{name} FORWARD policy {lines[0].rpartition(' ')[2]}")
        return tuple(found)

    def prober(self, own: Mapping[int, str]) -> AbstractContextManager[Probe]:
        """What sends echoes from these addresses of this node, by family."""
        return Prober(own)

    def features(self, wanted: Collection[str]) -> dict[str, bool]:
        """Which of these the kernel can do."""
        return features(wanted)


def program(name: str) -> str:
    """The path of one of the node's own programs, "" where it is not installed."""
    return next((f"{each}/{name}" for each in PATH if os.access(f"{each}/{name}", os.X_OK)), "")


def _with_accepts(each: Hook) -> Hook:
    if each.hook != "forward" or each.policy != "drop":
        return each
    found = rules(listing(f"list chain {each.table} {each.chain}"))
    return msgspec.structs.replace(each, accepts=tuple(rule.text for rule in found if rule.text.endswith("accept")))
