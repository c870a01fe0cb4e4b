"""The commands of `tullectl` that are about the whole cluster, as this node sees it: nodes and ping.

They need the node list and nothing else; with agents whose settings say `"mesh": true` they also know what is between
the other nodes.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
import typer

from cni_plugin.ctl import show
from cni_plugin.ctl.options import DEFAULT_CONF_DIR, ConfDir, Json, Network, Pinged, RunDir, fail, or_explain
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.open import open_kernel
from cni_plugin.store.records import DEFAULT_RUN_DIR

if TYPE_CHECKING:
    from cni_plugin.ctl.cluster.ping import Echoed, Summary
    from cni_plugin.ctl.cluster.roster import Roster
    from cni_plugin.ctl.reach import Probe

_USUAL = 84
"""Bytes of an IPv4 packet of ping(8)."""


def nodes(
    pinged: Pinged = True,
    json: Json = False,
    conf_dir: ConfDir = DEFAULT_CONF_DIR,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Show the cluster's nodes and the ways to them. Exit code 1 when one of these is not as it should be."""
    from cni_plugin.ctl.cluster import nodes
    from cni_plugin.ctl.cluster import show as show_cluster
    from cni_plugin.ctl.cluster.asked import ask, clusters
    from cni_plugin.kernel.see.heard import confirmed

    with open_kernel() as kernel:
        found = or_explain(lambda: clusters(kernel, run_dir, conf_dir or DEFAULT_CONF_DIR))
        asked = [or_explain(partial(ask, each, kernel, nodes.MOST)) if pinged and each.me else None for each in found]
    heard = or_explain(confirmed)
    tables = [nodes.seen(each, one.told if one else None, heard) for each, one in zip(found, asked, strict=True)]
    pairs = list(zip(found, tables, strict=True))
    if json:
        show.as_json([{**_about(each), "nodes": msgspec.to_builtins(rows)} for each, rows in pairs])
    for each, rows in [] if json else pairs:
        show_cluster.nodes(each, rows, time.time(), pinged=pinged)
    if any(each.trouble for each in found) or any(map(nodes.wrong, tables)):
        raise typer.Exit(1)


def ping(
    node: Annotated[str, typer.Argument(help="A node, by name or address.")] = "",
    everybody: Annotated[bool, typer.Option("--all", help="From every node to every node.")] = False,
    count: Annotated[int, typer.Option("--count", "-c", min=1, help="How many echoes.")] = 4,
    size: Annotated[int, typer.Option("--size", "-s", max=65535, help="Bytes of the whole packet.")] = _USUAL,
    network: Network = "",
    json: Json = False,
    conf_dir: ConfDir = DEFAULT_CONF_DIR,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Ask one node, or every node all others, through the overlay. Exit code 1 when one does not answer that should."""
    from cni_plugin.ctl.cluster.asked import clusters

    if bool(node) == everybody:
        raise typer.BadParameter("name a node, or say --all")
    with open_kernel() as kernel:
        found = or_explain(lambda: clusters(kernel, run_dir, conf_dir or DEFAULT_CONF_DIR, network))
        if everybody:
            reached = _ping_all(found[0], kernel, json=json)
        else:
            reached = _ping(found, kernel, _Echoes(node, count, size), json=json)
    if not reached:
        raise typer.Exit(1)


class _Echoes(NamedTuple):
    """What `ping` was asked for."""

    node: str
    number: int
    size: int


def _about(cluster: Roster) -> dict[str, object]:
    return {key: each for key, each in msgspec.to_builtins(cluster).items() if key != "members"}


def _ping_all(cluster: Roster, kernel: Kernel, *, json: bool) -> bool:
    from cni_plugin.ctl.cluster import matrix
    from cni_plugin.ctl.cluster import show as show_cluster
    from cni_plugin.ctl.cluster.asked import ask

    rows = or_explain(lambda: matrix.matrix(cluster, *ask(cluster, kernel, matrix.MOST)))
    lost = matrix.lost(rows)
    if json:
        show.as_json({"network": cluster.network, "rows": msgspec.to_builtins(rows), "lost": lost})
    else:
        show_cluster.matrix(rows, lost, left_out=len(cluster.peers) + 1 - len(rows))
    return not lost


def _ping(found: list[Roster], kernel: Kernel, asked: _Echoes, *, json: bool) -> bool:
    from cni_plugin.ctl.cluster import nodes, ping
    from cni_plugin.ctl.cluster import show as show_cluster
    from cni_plugin.ctl.host import Host
    from cni_plugin.ctl.reach import family_of
    from cni_plugin.kernel.see.echo import LEAST

    cluster, member = or_explain(lambda: ping.find(found, asked.node))
    own = nodes.sources(cluster, kernel.locally_held())
    addresses = [each for each in member.overlay if not own or family_of(each) in own]
    least = max((LEAST[family_of(each)] for each in addresses), default=0)
    if not addresses:
        fail(f"{member.name} has no overlay address of a family in which this node has one")
    if asked.size < least:
        fail(f"--size {asked.size}: an echo has {least} bytes at least")
    each_told = None if json else partial(show_cluster.echoed, member.name)
    with Host().prober(own) as probe:
        summaries = [or_explain(partial(_echoes, probe, each, asked, each_told)) for each in addresses]
    if json:
        show.as_json({"node": member.name, "size": asked.size, "addresses": msgspec.to_builtins(summaries)})
    for one in [] if json else summaries:
        show_cluster.summary(one)
    return all(each.received for each in summaries)


def _echoes(probe: Probe, address: str, asked: _Echoes, told: Callable[[Echoed], None] | None) -> Summary:
    from cni_plugin.ctl.cluster import ping
    from cni_plugin.ctl.reach import WAIT

    heard = []
    for each in ping.ping(probe, address, (asked.number, asked.size, WAIT), _wait):
        heard.append(each)
        if told:
            told(each)
    return ping.summary(address, heard)


def _wait(seconds: float) -> None:
    select.select([], [], [], seconds)
