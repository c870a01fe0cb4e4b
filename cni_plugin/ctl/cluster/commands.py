"""The commands of `tullectl` that are about the whole cluster, as this node sees it: nodes, ping and map.

They need the node list and nothing else; with agents whose settings say `"mesh": true` they also know what is between
the other nodes.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, NamedTuple

import msgspec
import typer

from cni_plugin.ctl import show
from cni_plugin.ctl.cluster import matrix, members, nodes, ping
from cni_plugin.ctl.cluster import show as show_cluster
from cni_plugin.ctl.cluster.matrix import Row
from cni_plugin.ctl.cluster.nodes import Answer
from cni_plugin.ctl.cluster.ping import Echoed, Summary
from cni_plugin.ctl.cluster.reach import WAIT, Probe
from cni_plugin.ctl.cluster.roster import Member, Membership, family_of
from cni_plugin.ctl.gather import Machine
from cni_plugin.ctl.look import view
from cni_plugin.ctl.map.picture import MOST_NAMED
from cni_plugin.ctl.options import ConfDir, Json, RunDir, fail, or_explain
from cni_plugin.ctl.show import out
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.host import files
from cni_plugin.kernel.open import open_kernel
from cni_plugin.kernel.see.echo import LEAST
from cni_plugin.kernel.see.heard import confirmed
from cni_plugin.records import DEFAULT_RUN_DIR, Records

cluster_app = typer.Typer()
Network = Annotated[str, typer.Option("--network", help="Which one, where this node is in several clusters.")]
Pinged = Annotated[bool, typer.Option("--ping/--no-ping", help="Ask the nodes for round trips.")]


@cluster_app.command("nodes")
def nodes_command(
    pinged: Pinged = True,
    json: Json = False,
    conf_dir: ConfDir = view.CONF_DIR,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Show the cluster's nodes and the ways to them. Exit code 1 when one of these is not as it should be."""
    with open_kernel() as kernel:
        found = or_explain(lambda: _clusters(kernel, run_dir, conf_dir))
        asked = [or_explain(partial(_ask, each, kernel, nodes.MOST)) if pinged and each.me else None for each in found]
    heard = or_explain(confirmed)
    tables = [nodes.seen(each, one.told if one else None, heard) for each, one in zip(found, asked, strict=True)]
    pairs = list(zip(found, tables, strict=True))
    if json:
        show.as_json([{**_about(each), "nodes": msgspec.to_builtins(rows)} for each, rows in pairs])
    for each, rows in [] if json else pairs:
        show_cluster.nodes(each, rows, time.time(), pinged=pinged)
    if any(each.trouble for each in found) or any(map(nodes.wrong, tables)):
        raise typer.Exit(1)


@cluster_app.command("ping")
def ping_command(
    node: Annotated[str, typer.Argument(help="A node, by name or address.")] = "",
    everybody: Annotated[bool, typer.Option("--all", help="From every node to every node.")] = False,
    count: Annotated[int, typer.Option("--count", "-c", min=1, help="How many echoes.")] = 4,
    size: Annotated[int, typer.Option("--size", "-s", max=65535, help="Bytes of the whole packet.")] = ping.USUAL,
    network: Network = "",
    json: Json = False,
    conf_dir: ConfDir = view.CONF_DIR,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Ask one node, or every node all others, through the overlay. Exit code 1 when one does not answer that should."""
    if bool(node) == everybody:
        raise typer.BadParameter("name a node, or say --all")
    with open_kernel() as kernel:
        found = or_explain(lambda: _clusters(kernel, run_dir, conf_dir, network))
        if everybody:
            reached = _ping_all(found[0], kernel, json=json)
        else:
            reached = _ping(found, kernel, _Echoes(node, count, size), json=json)
    if not reached:
        raise typer.Exit(1)


@cluster_app.command("map")
def map_command(
    file: Annotated[str, typer.Option("--output", "-o", help="The SVG to write; - is stdout.")] = "cluster.svg",
    pinged: Pinged = True,
    network: Network = "",
    conf_dir: ConfDir = view.CONF_DIR,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Draw the cluster as this node sees it: nodes, subnets, the ways between them, and this node's pods."""
    from cni_plugin.ctl.map import picture as map_picture
    from cni_plugin.ctl.map import svg as map_svg

    with open_kernel() as kernel:
        cluster = or_explain(lambda: _clusters(kernel, run_dir, conf_dir, network))[0]
        rows = or_explain(lambda: _for_map(cluster, kernel, pinged=pinged))
        pods = or_explain(lambda: list(Records(run_dir).all(cluster.network)))
    picture = map_picture.picture(cluster, rows, pods, time.strftime("%Y-%m-%d %H:%M %Z"))
    text = map_svg.draw(picture)
    if file == "-":
        print(text)
        return
    or_explain(lambda: files.write(os.path.abspath(file), text.encode()))
    out.print(f"wrote {file}: {len(cluster.members)} nodes, {len(pods)} pods of this one", markup=False)


class _Echoes(NamedTuple):
    """What `ping` was asked for."""

    node: str
    number: int
    size: int


class _Asked(NamedTuple):
    """What came of asking this node's peers, and its overlay address, "" when it bears none."""

    peers: tuple[Member, ...]
    told: dict[str, Answer]
    source: str


def _clusters(kernel: Kernel, run_dir: str, conf_dir: str, network: str = "") -> list[Membership]:
    """Those of this node, or the one of this network. Raises CniError 7 where there is none."""
    found = members.memberships(kernel, Records(run_dir), conf_dir or view.CONF_DIR)
    chosen = [each for each in found if network in ("", each.network)]
    if not chosen:
        known = ", ".join(each.network for each in found)
        raise CniError(
            INVALID_CONFIG,
            f"no cluster of network {network!r}: there is {known}" if found
            else "this node is in no cluster: no configuration names a node list, and no agent has written one",
        )
    return chosen


def _about(cluster: Membership) -> dict[str, object]:
    return {key: each for key, each in msgspec.to_builtins(cluster).items() if key != "members"}


def _ask(cluster: Membership, kernel: Kernel, most: int) -> _Asked:
    """Raises CniError 7 where the list cannot be used, OSError."""
    if cluster.me is None:
        raise CniError(INVALID_CONFIG, cluster.trouble or f"{cluster.source} does not have this node")
    peers = matrix.sample(cluster, most)
    own = nodes.sources(cluster, kernel.locally_held())
    with Machine().prober(own) as probe:
        return _Asked(peers, nodes.answers(probe, cluster, peers, WAIT), own.get(cluster.family, ""))


def _rows(cluster: Membership, kernel: Kernel) -> list[Row]:
    return matrix.matrix(cluster, *_ask(cluster, kernel, matrix.MOST))


def _for_map(cluster: Membership, kernel: Kernel, *, pinged: bool) -> list[Row]:
    """All rows where each line is drawn, else this node's alone."""
    if cluster.me is None:
        raise CniError(INVALID_CONFIG, cluster.trouble or f"{cluster.source} does not have this node")
    if not pinged:
        return []
    asked = _ask(cluster, kernel, nodes.MOST)
    source = asked.source if len(cluster.members) <= MOST_NAMED else ""
    return matrix.matrix(cluster, asked.peers, asked.told, source)


def _ping_all(cluster: Membership, kernel: Kernel, *, json: bool) -> bool:
    rows = or_explain(lambda: _rows(cluster, kernel))
    lost = matrix.lost(rows)
    if json:
        show.as_json({"network": cluster.network, "rows": msgspec.to_builtins(rows), "lost": lost})
    else:
        show_cluster.matrix(rows, lost, left_out=len(cluster.peers) + 1 - len(rows))
    return not lost


def _ping(found: list[Membership], kernel: Kernel, asked: _Echoes, *, json: bool) -> bool:
    cluster, member = or_explain(lambda: ping.find(found, asked.node))
    own = nodes.sources(cluster, kernel.locally_held())
    addresses = [each for each in member.overlay if not own or family_of(each) in own]
    least = max((LEAST[family_of(each)] for each in addresses), default=0)
    if not addresses:
        fail(f"{member.name} has no overlay address of a family in which this node has one")
    if asked.size < least:
        fail(f"--size {asked.size}: an echo has {least} bytes at least")
    each_told = None if json else partial(show_cluster.echoed, member.name)
    with Machine().prober(own) as probe:
        summaries = [or_explain(partial(_echoes, probe, each, asked, each_told)) for each in addresses]
    if json:
        show.as_json({"node": member.name, "size": asked.size, "addresses": msgspec.to_builtins(summaries)})
    for one in [] if json else summaries:
        show_cluster.summary(one)
    return all(each.received for each in summaries)


def _echoes(probe: Probe, address: str, asked: _Echoes, told: Callable[[Echoed], None] | None) -> Summary:
    heard = []
    for each in ping.ping(probe, address, (asked.number, asked.size, WAIT), _wait):
        heard.append(each)
        if told:
            told(each)
    return ping.summary(address, heard)


def _wait(seconds: float) -> None:
    select.select([], [], [], seconds)
