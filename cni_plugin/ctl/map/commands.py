"""The command of `tullectl` that draws: map. It works without a single answer, with less to draw."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated

import typer

from cni_plugin.ctl import show
from cni_plugin.ctl.options import DEFAULT_CONF_DIR, ConfDir, Network, Pinged, RunDir, or_explain
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.host import files
from cni_plugin.kernel.open import open_kernel
from cni_plugin.store.records import DEFAULT_RUN_DIR, Records

if TYPE_CHECKING:
    from cni_plugin.ctl.cluster.matrix import MatrixRow
    from cni_plugin.ctl.cluster.roster import Roster


def map(  # noqa: A001
    file: Annotated[str, typer.Option("--output", "-o", help="The SVG to write; - is stdout.")] = "cluster.svg",
    pinged: Pinged = True,
    network: Network = "",
    conf_dir: ConfDir = DEFAULT_CONF_DIR,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Draw the cluster as this node sees it: nodes, subnets, the ways between them, and this node's pods."""
    from cni_plugin.ctl.cluster.asked import clusters
    from cni_plugin.ctl.map import picture, svg

    with open_kernel() as kernel:
        cluster = or_explain(lambda: clusters(kernel, run_dir, conf_dir or DEFAULT_CONF_DIR, network))[0]
        rows = or_explain(lambda: _rows(cluster, kernel, pinged=pinged))
        pods = or_explain(lambda: list(Records(run_dir).all(cluster.network)))
    text = svg.draw(picture.picture(cluster, rows, pods, time.strftime("%Y-%m-%d %H:%M %Z")))
    if file == "-":
        print(text)
        return
    or_explain(lambda: files.write(os.path.abspath(file), text.encode()))
    show.lines(f"wrote {file}: {len(cluster.members)} nodes, {len(pods)} pods of this one")


def _rows(cluster: Roster, kernel: Kernel, *, pinged: bool) -> list[MatrixRow]:
    """All rows where each line is drawn, else this node's alone."""
    from cni_plugin.ctl.cluster import matrix, nodes
    from cni_plugin.ctl.cluster.asked import ask, listed
    from cni_plugin.ctl.map.picture import MOST_NAMED

    listed(cluster)
    if not pinged:
        return []
    asked = ask(cluster, kernel, nodes.MOST)
    source = asked.source if len(cluster.members) <= MOST_NAMED else ""
    return matrix.matrix(cluster, asked.peers, asked.told, source)
