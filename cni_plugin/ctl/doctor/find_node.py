"""What can be wrong with the node itself: its sysctls, its kernel, other people's firewalls, the run folder, the clock.

Each finding is a pure function over the facts; `cni_plugin.ctl.diagnosis` runs them all.
"""

from __future__ import annotations

from collections.abc import Iterator

from cni_plugin.ctl.facts import ERROR, HINT, WARNING, Facts, Finding
from cni_plugin.kernel.modules import MODULES, remedy
from cni_plugin.kernel.nft.ruleset import Hook
from cni_plugin.marks import TABLE
from cni_plugin.plan.node import FORWARDING

_CALL_IPTABLES = ("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables")
_IPVS = "kube-ipvs0"
_NEEDED_BY = {
    "bridge": "no pod can be wired without a bridge",
    "veth": "no pod can be wired without veth pairs",
    "vxlan": "the cluster's backend carries packets between nodes by VXLAN",
    "nf_tables": "ipMasq is done by nftables",
    "masquerade": "ipMasq is done by nftables, and without it pods do not reach the outside",
    "VLAN filtering": "a network asks for VLANs, and its pods would all be in one",
}
_CONFIG = {
    "bridge": "CONFIG_BRIDGE", "veth": "CONFIG_VETH", "vxlan": "CONFIG_VXLAN", "nf_tables": "CONFIG_NF_TABLES",
    "masquerade": "CONFIG_NFT_MASQ", "VLAN filtering": "CONFIG_BRIDGE_VLAN_FILTERING",
}


def forwarding_off(facts: Facts) -> Iterator[Finding]:
    """The kernel does not route for the pods."""
    for family in facts.families:
        key = FORWARDING[family]
        if facts.sysctls.get(key) == "0":
            yield Finding(
                "forwarding-off", ERROR, key, "0",
                f"pods reach each other on this node and nothing else by IPv{family}: no other node, no Service, no "
                "Internet; something has switched off what ADD switches on",
                f"sysctl -w {key}=1, and look for who sets it in /etc/sysctl.d",
            )


def no_ipv6(facts: Facts) -> Iterator[Finding]:
    """Pods are to have IPv6 addresses, and the kernel has no IPv6 (ipv6.disable=1, or built without)."""
    key = FORWARDING[6]
    if 6 in facts.families and key not in facts.sysctls and key not in facts.unknown:
        yield Finding(
            "no-ipv6", ERROR, key, "there is no such key",
            "pods are given IPv6 addresses, and this kernel cannot carry them: no pod of that network starts",
            "remove ipv6.disable=1 from the kernel's command line, or the IPv6 ranges from the configuration",
        )


def strict_rp_filter(facts: Facts) -> Iterator[Finding]:
    """The kernel uses the larger of `all` and the link's own value (Documentation/networking/ip-sysctl.rst)."""
    everywhere = _number(facts.sysctls.get("net/ipv4/conf/all/rp_filter"))
    uplinks = [each.uplink for each in facts.limits if each.uplink]
    tunnels = [each.device for each in facts.limits if each.device]
    for dev in dict.fromkeys([*facts.bridges, *tunnels, *uplinks]):
        key = f"net/ipv4/conf/{dev}/rp_filter"
        own = facts.sysctls.get(key)
        if own is not None and max(everywhere, _number(own)) == 1:
            yield Finding(
                "strict-rp-filter", WARNING, key, f"{own} (all: {everywhere})",
                f"the kernel silently drops what comes in by {dev} when the answer would leave by another interface: "
                "connections by a second NIC, a nodePort or a tunnel hang",
                f"sysctl -w {key}=2",
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
    return [*facts.services, *(["kube-proxy with IPVS"] if facts.link(_IPVS) else [])]


def missing_features(facts: Facts) -> Iterator[Finding]:
    """The kernel cannot do what a configuration asks of it."""
    for name, there in facts.features.items():
        if not there:
            yield Finding(
                "missing-feature", ERROR, f"kernel feature {name}", "missing", _NEEDED_BY[name],
                f"{f'{remedy(name)}; or ' if name in MODULES else ''}run a kernel with {_CONFIG[name]} (zgrep "
                f"{_CONFIG[name]} /proc/config.gz)",
            )


def conntrack_full(facts: Facts) -> Iterator[Finding]:
    """The table of connections is nearly full."""
    used, most = (_number(facts.sysctls.get(f"net/netfilter/nf_conntrack_{each}")) for each in ("count", "max"))
    if most and used >= most * 9 // 10:
        yield Finding(
            "conntrack-full", ERROR if used >= most else WARNING, "net/netfilter/nf_conntrack_count",
            f"{used} of {most}",
            "new connections are dropped when the table is full: clients see random time-outs under load",
            f"sysctl -w net/netfilter/nf_conntrack_max={most * 4}",
        )


def run_folder(facts: Facts) -> Iterator[Finding]:
    """Records must not outlive a boot, and must be writable."""
    mount = facts.mount
    if mount is None:
        return
    if not mount.writable:
        yield Finding(
            "run-dir-read-only", ERROR, facts.run_dir, f"{mount.kind} on {mount.path}, not writable",
            "no pod can be started or stopped cleanly: nothing can be put on record",
            f"mount -o remount,rw {mount.path}, or see that there is space and root owns {facts.run_dir}",
        )
    if mount.kind not in ("tmpfs", "ramfs"):
        yield Finding(
            "run-dir-not-tmpfs", WARNING, facts.run_dir, f"{mount.kind} on {mount.path}",
            "records of an earlier boot are left on the disk; they are void, but each is written to a disk for nothing",
            f"mount -t tmpfs tmpfs {facts.run_dir}, or set TULLE_RUN_DIR to a folder below /run",
        )


def other_boot(facts: Facts) -> Iterator[Finding]:
    """What is on record was written before the machine was started again."""
    old = [each for each in facts.stamps if facts.boot and each.boot and each.boot != facts.boot]
    if old:
        yield Finding(
            "other-boot", HINT, "boot of " + _some([each.where for each in old]), old[0].boot,
            f"{len(old)} records or address folders are stamped with another boot than this one ({facts.boot}): they "
            "are void and their addresses are free again with the next ADD",
            "nothing; a GC of the runtime takes them away",
        )


def clock(facts: Facts) -> Iterator[Finding]:
    """The wall clock is earlier than what was written in this very boot."""
    ahead = [each for each in facts.stamps if each.boot == facts.boot and facts.now and each.at > facts.now + 1]
    if ahead:
        yield Finding(
            "clock", WARNING, "written " + _some([each.where for each in ahead]),
            f"{max(each.at for each in ahead) - facts.now:.0f} s in the future",
            "the clock was set back after these pods were started: times in logs do not fit together, and the grace "
            "time of what is cleaned up begins anew",
            "timedatectl status, chronyc tracking: see that the clock is set before pods are started",
        )


def agent_away(facts: Facts) -> Iterator[Finding]:
    """Nobody answers on the agent's socket."""
    if facts.agent or "agent" in facts.unknown:
        return
    required = [each.path for each in facts.configs if each.ours and each.agent == "required"]
    wanted = any(each.ours and each.agent != "none" for each in facts.configs)
    yield Finding(
        "agent-away", ERROR if required else HINT, f"{facts.run_dir}/agent.sock", "nobody answers",
        f'{required[0]} says "agent": "required": no pod can be started until the agent is back' if required
        else "pods start and stop all the same, only slower; what somebody breaks is not put right by itself"
        + ("" if wanted else ", and no configuration asks for an agent"),
        "systemctl enable --now tulled.socket tulled; journalctl -u tulled",
    )


def agent_version(facts: Facts) -> Iterator[Finding]:
    """The agent is of another release than this tool, and so than the plugin beside it."""
    version = facts.agent.get("version")
    if version and version != facts.version:
        yield Finding(
            "agent-version", WARNING, "version of the agent", f"{version}, the tool is {facts.version}",
            "an upgrade was not finished: pods are wired by the old release until the agent is started again",
            "systemctl restart tulled",
        )


def agent_not_ready(facts: Facts) -> Iterator[Finding]:
    """The agent is there and says that it cannot serve."""
    if facts.agent and facts.agent.get("ready") is False:
        yield Finding(
            "agent-not-ready", WARNING, "ready of the agent", str(facts.agent.get("problem") or "false"),
            "the agent has not finished starting, or cannot make the node as it should be",
            "journalctl -u tulled, and tullectl diff",
        )


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


def _number(text: str | None) -> int:
    return int(text) if text and text.lstrip("-").isdigit() else 0


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
