"""The cluster's list: the source that it is learnt from, what that complains of, and whether it can be used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from cni_plugin.ctl.cluster.roster import Roster
from cni_plugin.ctl.doctor.contract import CLUSTER, ERROR, WARNING, Finding
from cni_plugin.ctl.eyes import Eyes

LAYER = CLUSTER
_LEFT_OUT, _OUTSIDE, _SHARED = "is left out", "outside the cluster's network", "has the same address"
_MOST = 5
"""Findings of one kind; more of them are counted."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The clusters, and the agent's own word (empty: away)."""

    clusters: tuple[Roster, ...] = ()
    agent: dict[str, object] = {}


def gather(eyes: Eyes) -> Facts:
    """What the files say, and what the agent does."""
    return Facts(clusters=eyes.clusters, agent=eyes.agent)


def cluster_not_ready(facts: Facts) -> Iterator[Finding]:
    """The agent has not got this node's network together."""
    told = _told(facts)
    if told and told.get("ready") is False:
        yield Finding(
            "cluster-not-ready", ERROR, f"cluster {told.get('network')} on {told.get('node')}",
            str(told.get("reason") or "not ready"),
            "the CNI configuration is not written until the node's network stands: the node stays NotReady",
            "put right what the reason says; journalctl -u tulled",
        )


def source_away(facts: Facts) -> Iterator[Finding]:
    """The agent cannot reach, or not understand, who tells it of its cluster."""
    told = _told(facts)
    if told.get("trouble"):
        yield Finding(
            "source-away", WARNING, f"source {told.get('source')} of the agent", str(told["trouble"]),
            "nodes that join or leave are not learnt of until it is back; what worked goes on working",
            "see that the API server, etcd or file is there and this node may read it; journalctl -u tulled",
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


def conflicts(facts: Facts) -> Iterator[Finding]:
    """What the source complains of: two nodes with one subnet or address, a subnet of another network, anything else.
    """
    problems = _told(facts).get("problems")
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


def _told(facts: Facts) -> Mapping[str, object]:
    """What the agent says of its cluster, {} when it has none or is away."""
    told = facts.agent.get("cluster")
    return told if isinstance(told, Mapping) else {}


FINDINGS = {
    cluster_not_ready: ("cluster-not-ready",),
    source_away: ("source-away",),
    bad_list: ("bad-node-list", "wrong-cluster-cidr"),
    conflicts: ("node-conflict", "node-list-problem", "wrong-cluster-cidr"),
}
