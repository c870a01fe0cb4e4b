"""What can be wrong between nodes: the source, the node list, its subnets, the ways to peers, and what packets say.

Each finding is a pure function over the facts; `cni_plugin.ctl.diagnosis` runs them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_network

from cni_plugin.ctl.cluster.roster import Membership
from cni_plugin.ctl.facts import ERROR, HINT, WARNING, Facts, Finding, Probed
from cni_plugin.node.former import REMEDY, outside

_LEFT_OUT, _OUTSIDE, _SHARED = "is left out", "outside the cluster's network", "has the same address"
_FLANNEL = ("flannel.", "flannel-v6.", "flannel-wg", "flannel.ipip")
_MOST = 5
"""Findings of one kind; more of them are counted."""


def source_away(facts: Facts) -> Iterator[Finding]:
    """The agent cannot reach, or not understand, who tells it of its cluster."""
    told = told_by_agent(facts)
    if told.get("trouble"):
        yield Finding(
            "source-away", WARNING, f"source {told.get('source')} of the agent", str(told["trouble"]),
            "nodes that join or leave are not learnt of until it is back; what worked goes on working",
            "see that the API server, etcd or file is there and this node may read it; journalctl -u tulled",
        )


def cluster_not_ready(facts: Facts) -> Iterator[Finding]:
    """The agent has not got this node's network together."""
    told = told_by_agent(facts)
    if told and told.get("ready") is False:
        yield Finding(
            "cluster-not-ready", ERROR, f"cluster {told.get('network')} on {told.get('node')}",
            str(told.get("reason") or "not ready"),
            "the CNI configuration is not written until the node's network stands: the node stays NotReady",
            "put right what the reason says; journalctl -u tulled",
        )


def conflicts(facts: Facts) -> Iterator[Finding]:
    """What the source complains of: two nodes with one subnet or address, a subnet of another network, anything else.
    """
    problems = told_by_agent(facts).get("problems")
    found = [str(each) for each in problems] if isinstance(problems, list | tuple) else []
    yield from map(_complaint, found[:_MOST])
    if len(found) > _MOST:
        yield Finding(
            "node-list-problem", WARNING, "the node list", f"{len(found) - _MOST} more problems",
            "what the source says of nodes cannot be made true for all of them",
            "tullectl status --json shows them all",
        )


def _complaint(each: str) -> Finding:
    """Of a node that is left out, or shares an address, by the words of `cluster.settled`."""
    if _SHARED in each:
        return Finding(
            "node-conflict", WARNING, "the node list", each,
            "the pods of all of them but one are reached by nobody",
            "delete the node that is no more, or correct the address at the source",
        )
    if _LEFT_OUT not in each:
        return Finding(
            "node-list-problem", WARNING, "the node list", each,
            "what was known before holds on for that node", "correct it at the source",
        )
    outside = _OUTSIDE in each
    return Finding(
        "wrong-cluster-cidr" if outside else "node-conflict", ERROR, "the node list", each,
        "that node's pods reach no other node, and none reaches them",
        "give the cluster one CIDR: controller manager's --cluster-cidr and net-conf.json must agree" if outside
        else "correct what it says at the source; of two with one subnet give one another, and start its pods anew",
    )


def bad_list(facts: Facts) -> Iterator[Finding]:
    """A node list that cannot be used."""
    for each in facts.clusters:
        if each.trouble:
            yield Finding(
                "wrong-cluster-cidr" if _OUTSIDE in each.trouble else "bad-node-list", ERROR,
                f"cluster of {each.network} in {each.source}", each.trouble,
                "no pod of this network can be started, and changes to the cluster are not made true here",
                f"correct {each.source}; then tullectl nodes",
            )


def ranges_outside_subnet(facts: Facts) -> Iterator[Finding]:
    """Pods are given addresses that the other nodes do not send here."""
    subnets = {each.network: each.me.subnets for each in facts.clusters if each.me}
    for config in facts.configs:
        mine = [ip_network(each) for each in subnets.get(config.network, ())]
        for text in config.ranges if mine else ():
            span = ip_network(text, strict=False)
            if not any(span.version == each.version and span.subnet_of(each) for each in mine):  # type: ignore[arg-type]
                yield Finding(
                    "ranges-outside-subnet", ERROR, f"ipam ranges in {config.path}",
                    f"{text}; this node's subnets are {', '.join(map(str, mine))}",
                    "pods get addresses that no other node sends here: they reach nobody beyond this node",
                    "remove ipam.ranges (they follow from the cluster), or write this node's own subnet",
                )


def former_subnets(facts: Facts) -> Iterator[Finding]:
    """Pods that live with addresses of a subnet that is not this node's any more, as after it joined anew."""
    for cluster in facts.clusters:
        mine = cluster.me.subnets if cluster.me else ()
        held = {
            f"{pod.container} {pod.ifname}": each
            for pod in facts.pods
            for each in pod.ips
            if pod.network == cluster.network and outside([each], mine)
        }
        if held:
            yield Finding(
                "former-subnet", ERROR, f"addresses of {_names(list(held))} in {cluster.network}",
                f"{', '.join(list(held.values())[:3])}; this node's subnets are {', '.join(mine)}",
                "no other node sends to these pods, and as long as one lives this node's bridge hides the pods of the "
                "node that has that subnet now",
                REMEDY,
            )


def no_way(facts: Facts) -> Iterator[Finding]:
    """Peers that the backend cannot reach, or whose entries the kernel has lost."""
    for cluster in facts.clusters:
        stuck = [each for each in cluster.peers if not each.way and each.why]
        for each in stuck[:_MOST]:
            yield Finding(
                "no-way-to-peer", ERROR, f"{each.name} by {cluster.backend}", each.why,
                f"pods here and pods of {each.name} do not reach each other", "see the remedy in what the backend says",
            )
        lost = [each for each in cluster.peers if each.missing and cluster.programmed]
        if lost:
            yield Finding(
                "peer-not-programmed", ERROR, f"ways to {_names([each.name for each in lost])}",
                f"the kernel lacks {lost[0].missing[0]}" + (" and more" if len(lost[0].missing) > 1 else ""),
                "packets to their pods go astray", "tullectl repair",
            )


def silent_peers(facts: Facts) -> Iterator[Finding]:
    """Peers that do not answer through the overlay, though their entries stand."""
    for cluster in facts.clusters:
        asked = [each for each in facts.probed if each.network == cluster.network]
        silent = [each for each in asked if each.silent]
        if not silent:
            continue
        everybody = len(silent) == len({each.address for each in asked}) and len(silent) > 1
        yield Finding(
            "peer-silent", ERROR, f"echo to {_names([each.node for each in silent])}",
            f"{silent[0].address}: {silent[0].why}" + (f" ({len(silent)} of {len(asked)} asked)" if asked else ""),
            ("no peer is reached from here: this node's own firewall or link is the likeliest place" if everybody
             else "pods of this node and of those do not reach each other"),
            _way_through(cluster) + f"; tullectl ping {silent[0].node}; is the agent running there?",
        )


def black_holes(facts: Facts) -> Iterator[Finding]:
    """Small packets pass and large ones do not, and nobody says so to the sender."""
    for cluster in facts.clusters:
        holes: dict[int, list[Probed]] = {}
        for each in facts.probed:
            if each.network == cluster.network and each.hole:
                holes.setdefault(each.passes, []).append(each)
        for passes, found in sorted(holes.items()):
            yield Finding(
                "mtu-black-hole", ERROR, f"packets to {_names([each.node for each in found])}",
                f"{passes} bytes pass, the pods' {found[0].mtu} do not" if passes
                else f"small ones pass, the pods' {found[0].mtu} bytes do not",
                "connections open and then hang: ping and small answers work, downloads, TLS and kubectl logs do not",
                f'let the links between the nodes carry {found[0].mtu - passes} bytes more, or set "mtu": {passes} in '
                "the network configuration and start the pods anew" if passes
                else f"tullectl ping {found[0].node} --size N tells what passes; see the finding about the others",
            )


def not_guarded(facts: Facts) -> Iterator[Finding]:
    """nftables cannot keep those out who are no peers."""
    for each in facts.clusters:
        if each.unguarded:
            yield Finding(
                "not-guarded", WARNING, f"UDP port {each.port} of {each.device}", each.unguarded,
                "any pod, and any host that reaches this node, can send to its pods as if it were another pod",
                "modprobe nf_tables, or install nftables (Debian: apt install nftables); then tullectl repair",
            )


def slow_tunnel(facts: Facts) -> Iterator[Finding]:
    """Checksums that the tunnel's device computes."""
    for each in facts.clusters:
        if each.slow:
            yield Finding(
                "slow-tunnel", HINT, f"checksums of {each.device}", f"not left to the NIC: {each.slow}",
                "the kernel cuts each stream into packets above the tunnel: about a fifth of the speed between nodes",
                'another driver or firmware of the NIC, or a newer kernel; who knows better sets "txChecksum": true in '
                "the backend",
            )


def flannel(facts: Facts) -> Iterator[Finding]:
    """What flannel left behind, and a device of somebody else's with our VNI on our port, of which one alone works."""
    ours = {each.device: each for each in facts.clusters if each.device}
    for link in facts.links:
        if link.name in ours or link.name in facts.own:
            continue
        same = (each for each in ours.values() if link.vni and (each.vni, each.port) == (link.vni, link.udp_port))
        clash = next(same, None)
        if clash is not None:
            yield Finding(
                "vni-clash", ERROR, f"VNI {link.vni} on UDP port {link.udp_port} of {link.name}",
                f"{clash.device} has the same", "the kernel lets one device have them: the other cannot be made",
                f"ip link del {link.name}, once nobody uses it, or set another backend.vni for the whole cluster",
            )
        elif link.name.startswith(_FLANNEL):
            yield Finding(
                "flannel-leftover", WARNING, f"link {link.name}", "there",
                "routes of flannel's may lead packets into a network that is no more",
                f"when flannel is gone from this node: ip link del {link.name}",
            )
    yield from _cni0(facts)


def told_by_agent(facts: Facts) -> Mapping[str, object]:
    """What the agent says of its cluster, {} when it has none or is away."""
    told = facts.agent.get("cluster")
    return told if isinstance(told, Mapping) else {}


def _cni0(facts: Facts) -> Iterator[Finding]:
    link = facts.link("cni0")
    if link is None or "cni0" in facts.bridges or not facts.clusters:
        return
    ports = sum(each.master == "cni0" for each in facts.links)
    yield Finding(
        "flannel-leftover", HINT if ports else WARNING, "link cni0", f"{ports} ports",
        "pods of the former network still run on it: they are not Tulle's" if ports
        else "an empty bridge whose subnet may be this node's own: packets to pods end there",
        "delete those pods, they come back on Tulle" if ports else "ip link del cni0",
    )


def _way_through(cluster: Membership) -> str:
    if cluster.port:
        return f"let UDP {cluster.port} through between the nodes"
    return "let the nodes forward the pods' own addresses (cloud networks drop them: source/destination check)"


def _names(names: Sequence[str]) -> str:
    unique = list(dict.fromkeys(names))
    return ", ".join(unique[:3]) + (f" and {len(unique) - 3} more" if len(unique) > 3 else "")
