"""Other people's firewalls, and Services: what drops what pods send, and what must see it and does not."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from cni_plugin.ctl.doctor.contract import HINT, NODE, WARNING, Finding
from cni_plugin.ctl.eyes import Eyes
from cni_plugin.kernel.nft.ruleset import Hook
from cni_plugin.kernel.see.look import Link, named
from cni_plugin.marks import TABLE

LAYER = NODE
_CALL_IPTABLES = ("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables")
_IPVS = "kube-ipvs0"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everybody's base chains, and what the old iptables have (`legacy`).

    `services`: whose rules lead to the backends of Services here, such as "kube-proxy with nftables".
    """

    hooks: tuple[Hook, ...] = ()
    legacy: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    bridges: tuple[str, ...] = ()
    families: tuple[int, ...] = ()
    sysctls: dict[str, str] = {}


def gather(eyes: Eyes) -> Facts:
    """Rules of everybody's, and whether frames on bridges pass them."""
    return Facts(
        hooks=eyes.notes.many("nftables", eyes.host.hooks),
        legacy=eyes.notes.many("the old iptables", eyes.host.legacy),
        services=eyes.notes.many("kube-proxy", eyes.host.services),
        links=eyes.links,
        bridges=eyes.bridges,
        families=eyes.families,
        sysctls=eyes.sysctls(_CALL_IPTABLES),
    )


def foreign_drop(facts: Facts) -> Iterator[Finding]:
    """Somebody else's firewall drops forwarded packets unless a rule of its own lets them through."""
    for each in facts.hooks:
        if each.hook == "forward" and each.policy == "drop" and each.table != TABLE and not _lets(facts, each):
            yield Finding(
                "foreign-drop", WARNING, f"nft chain {each.table} {each.chain}", "policy drop",
                "whatever pods send to other nodes or to the outside is dropped unless a rule in that chain accepts "
                "it: pods on one node talk, everything else times out",
                _accept(facts, each.table, each.chain),
            )


def legacy_drop(facts: Facts) -> Iterator[Finding]:
    """The same in the old iptables, whose rules nftables does not show."""
    for each in facts.legacy:
        dropping = each.endswith("DROP")
        yield Finding(
            "legacy-iptables", WARNING if dropping else HINT, each.partition(" ")[0], each.partition(" ")[2],
            "the old iptables holds rules that nft does not show"
            + (", and drops what no rule of its accepts: pods do not reach the outside" if dropping else ""),
            "iptables-legacy -I FORWARD -i tulle0 -j ACCEPT; iptables-legacy -I FORWARD -o tulle0 -j ACCEPT"
            if dropping else "iptables-legacy-save shows them; look for a FORWARD policy DROP",
        )


def bridge_netfilter(facts: Facts) -> Iterator[Finding]:
    """Frames between pods of this node pass the IP firewall; harmless but for a firewall that drops."""
    dropping = any(foreign_drop(facts)) or any(each.endswith("DROP") for each in facts.legacy)
    keys = [each for each in _CALL_IPTABLES if facts.sysctls.get(each) == "1"]
    if keys and (dropping or not _proxies(facts)):
        yield Finding(
            "br-netfilter", WARNING if dropping else HINT, " and ".join(keys), "1",
            "frames between two pods of this node pass the forward chains of every firewall too"
            + (", one of which drops: pods beside each other cannot talk" if dropping
               else "; Services of a kube-proxy need that, in any mode, and where none is it is paid for in vain"),
            "sysctl -w " + " ".join(f"{each}=0" for each in keys) + ", unless a kube-proxy runs here, in whatever mode",
        )


def services_beside(facts: Facts) -> Iterator[Finding]:
    """Only with br_netfilter do rules for Services see what crosses the bridge: a pod's answer to one beside it."""
    proxies = _proxies(facts)
    for family in facts.families if proxies else ():
        key = _CALL_IPTABLES[family == 6]
        if facts.sysctls.get(key) != "1":
            yield Finding(
                "services-need-br-netfilter", WARNING, key, facts.sysctls.get(key, "no such key"),
                f"{' and '.join(proxies)} is here, and its rules do not see what crosses a bridge: a pod that asks a "
                f"Service whose backend runs beside it on this node gets no answer by IPv{family}; from another node "
                "it works",
                f"modprobe br_netfilter; sysctl -w {key}=1, and for the next boot in /etc/modules-load.d and "
                "/etc/sysctl.d",
            )


def _proxies(facts: Facts) -> list[str]:
    return [*facts.services, *(["kube-proxy with IPVS"] if named(facts.links, _IPVS) else [])]


def _lets(facts: Facts, hook: Hook) -> bool:
    """Whether rules of the chain accept what comes from, and what goes to, every bridge of ours."""
    ways = [f'{way} "{name}"' for name in facts.bridges or ("tulle0",) for way in ("iifname", "oifname")]
    return all(any(way in rule for rule in hook.accepts) for way in ways)


def _accept(facts: Facts, table: str, chain: str) -> str:
    bridge = next(iter(facts.bridges), "tulle0")
    return (
        f"nft insert rule {table} {chain} iifname {bridge} accept; nft insert rule {table} {chain} oifname {bridge} "
        "accept (or the same in that firewall's own configuration)"
    )


FINDINGS = {
    foreign_drop: ("foreign-drop",),
    legacy_drop: ("legacy-iptables",),
    bridge_netfilter: ("br-netfilter",),
    services_beside: ("services-need-br-netfilter",),
}
