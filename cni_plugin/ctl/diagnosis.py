"""`tullectl doctor`: looks at everything that is known to go wrong, and explains what it finds.

A finding says what was seen (a key and its value), why it matters in a user's words, and what to do about it. "error":
pods cannot work; "warning": some of them, some time; "hint": good to know; "not known": it could not be looked at,
which is not the same as fine. New trouble is a function in `find_node`, `find_links`, `find_pods` or
`find_cluster` and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from cni_plugin.ctl.doctor import find_cluster, find_links, find_node, find_pods
from cni_plugin.ctl.facts import ERROR, HINT, UNKNOWN, WARNING, Facts, Finding
from cni_plugin.ctl.gather import Places, gather, probe
from cni_plugin.ctl.host import Host
from cni_plugin.kernel.door import Kernel
from cni_plugin.store.records import Records

Find: TypeAlias = Callable[[Facts], Iterator[Finding]]
ORDER = (ERROR, WARNING, UNKNOWN, HINT)
FINDINGS: tuple[Find, ...] = (
    find_pods.no_configuration,
    find_pods.shadowed_configuration,
    find_pods.bad_configuration,
    find_pods.unknown_keys,
    find_node.missing_features,
    find_node.run_folder,
    find_node.no_ipv6,
    find_node.forwarding_off,
    find_node.foreign_drop,
    find_node.legacy_drop,
    find_node.bridge_netfilter,
    find_node.services_beside,
    find_node.strict_rp_filter,
    find_node.conntrack_full,
    find_pods.pools,
    find_pods.bridge_down,
    find_pods.unplugged,
    find_pods.duplicate_addresses,
    find_pods.flawed_leases,
    find_pods.damaged_records,
    find_pods.dead_attachments,
    find_pods.orphans,
    find_pods.vlans_not_kept_apart,
    find_links.mtu_too_large,
    find_links.mtu_differs,
    find_links.many_ports,
    find_links.mac_not_set,
    find_links.mac_policy,
    find_links.foreign_routes,
    find_links.network_manager,
    find_cluster.cluster_not_ready,
    find_cluster.source_away,
    find_cluster.bad_list,
    find_cluster.conflicts,
    find_cluster.ranges_outside_subnet,
    find_cluster.former_subnets,
    find_cluster.no_way,
    find_cluster.silent_peers,
    find_cluster.black_holes,
    find_cluster.not_guarded,
    find_cluster.slow_tunnel,
    find_cluster.flannel,
    find_node.other_boot,
    find_node.clock,
    find_node.agent_away,
    find_node.agent_version,
    find_node.agent_not_ready,
)


def examine(kernel: Kernel, records: Records, places: Places, *, probing: bool) -> list[Finding]:
    """All findings of this node; with `probing` also what its peers' answers tell. Changes nothing."""
    host = Host()
    facts = gather(kernel, records, places, host)
    return diagnose(probe(facts, kernel, host) if probing else facts)


def diagnose(facts: Facts) -> list[Finding]:
    """All findings, the gravest first."""
    found = [*(each for find in FINDINGS for each in find(facts)), *not_known(facts)]
    return sorted(found, key=lambda each: ORDER.index(each.severity))


def not_known(facts: Facts) -> Iterator[Finding]:
    """What could not be looked at; what failed for one reason, together."""
    reasons: dict[str, list[str]] = {}
    for what, why in facts.unknown.items():
        reasons.setdefault(why, []).append(what)
    for why, things in reasons.items():
        more = f" and {len(things) - 3} more" if len(things) > 3 else ""
        yield Finding(
            "not-known", UNKNOWN, ", ".join(things[:3]) + more, why,
            "whether this is as it should be could not be found out", "run tullectl as root on the node itself",
        )


def ill(findings: Sequence[Finding]) -> bool:
    """Whether it cannot be said that all is well, as an exit code tells it; a hint is no more than that."""
    return any(each.severity != HINT for each in findings)
