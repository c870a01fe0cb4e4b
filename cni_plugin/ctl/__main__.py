"""`tullectl`, the operator's tool: what would be done, what stands, what is wrong and why, and what to put right.

    tullectl plan /etc/cni/net.d/10-tulle.conflist
    tullectl status --json
    tullectl diff && tullectl doctor
    tullectl nodes && tullectl ping --all
    tullectl trace 10.244.1.7 --to 192.0.2.9
    tullectl repair

It works with the same states and records as the plugin, and needs neither a runtime nor an agent (but `top` and
`replay`, which ask the agent). Exit codes: 0 all is well, 1 something is not (and it says what), 2 the command line
is wrong. This file is the list of its commands and nothing else; each stands in the `commands` of its room.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Annotated

import typer

from cni_plugin.client import VERSION
from cni_plugin.ctl import commands, show
from cni_plugin.ctl.cluster import commands as cluster
from cni_plugin.ctl.look import commands as look
from cni_plugin.ctl.look.ipam import ipam_app
from cni_plugin.ctl.map import commands as map  # noqa: A004
from cni_plugin.ctl.support import commands as support

NODE: tuple[Callable[..., None], ...] = (
    look.plan, look.status, look.diff, commands.repair, commands.doctor, look.trace, look.top, support.replay,
    support.bundle, commands.cleanup,
)  # fmt: skip
CLUSTER: tuple[Callable[..., None], ...] = (cluster.nodes, cluster.ping, map.map)


def command_line() -> typer.Typer:
    """`tullectl` itself; a command is called as its function is."""
    app = typer.Typer(
        help="Look inside Tulle, the container network of this node.", no_args_is_help=True, add_completion=False
    )
    app.callback()(_root)
    _add(app, NODE)
    app.add_typer(ipam_app, name="ipam")
    beyond = typer.Typer()
    _add(beyond, CLUSTER)
    app.add_typer(beyond)
    return app


def _add(app: typer.Typer, runs: Iterable[Callable[..., None]]) -> None:
    for each in runs:
        app.command(each.__name__)(each)


def _version(wanted: bool) -> None:
    if wanted:
        show.out.print(f"tullectl {VERSION}")
        raise typer.Exit


def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    del version


def main() -> None:
    """The entry point."""
    os.umask(0o077)
    command_line()()


if __name__ == "__main__":
    main()
