"""The options that several commands of `tullectl` have, and how one of them ends that cannot go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NoReturn, TypeVar

import typer

from cni_plugin.ctl.show import err

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
RunDir = Annotated[str, typer.Option("--run-dir", envvar="TULLE_RUN_DIR", help="Where the records are.")]
DataDir = Annotated[str, typer.Option("--data-dir", help="The IPAM's dataDir.")]
ConfDir = Annotated[str, typer.Option("--conf-dir", envvar="NETCONFPATH", help="The runtime's configurations.")]
Network = Annotated[str, typer.Option("--network", help="Which one, where this node is in several clusters.")]
Pinged = Annotated[bool, typer.Option("--ping/--no-ping", help="Ask the nodes for round trips.")]
DEFAULT_CONF_DIR = "/etc/cni/net.d"
_Answer = TypeVar("_Answer")


def or_explain(step: Callable[[], _Answer]) -> _Answer:
    """What the step gives; when it fails the reason goes to stderr, and the command ends with exit code 1."""
    try:
        return step()
    except Exception as error:
        from cni_plugin.verbs.run import as_cni_error

        fail(as_cni_error(error).msg)


def fail(message: str) -> NoReturn:
    """End with exit code 1 and this reason."""
    err.print(f"tullectl: {message}", markup=False)
    raise typer.Exit(1)
