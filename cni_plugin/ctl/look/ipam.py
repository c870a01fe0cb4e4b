"""The commands of `tullectl ipam`: who has which address, what is wrong with leases, and taking one back."""

from __future__ import annotations

from typing import Annotated

import typer

from cni_plugin.conf.plugin import DEFAULT_DATA_DIR
from cni_plugin.ctl import show
from cni_plugin.ctl.options import DataDir, Json, RunDir, or_explain
from cni_plugin.kernel.open import open_kernel
from cni_plugin.store.records import DEFAULT_RUN_DIR, Records

ipam_app = typer.Typer(help="The addresses of the in-process host-local IPAM.", no_args_is_help=True)
_AnyNetwork = Annotated[str, typer.Argument(help="A network; all of them without one.")]


@ipam_app.command("list")
def ipam_list(
    network: _AnyNetwork = "",
    json: Json = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """List the addresses in use, and whose they are."""
    from cni_plugin.ctl.look import addresses

    rows = or_explain(lambda: addresses.leases(data_dir, network, Records(run_dir)))
    if json:
        show.as_json(rows)
    else:
        show.table("Addresses", ("network", "address", "container", "ifname", "flaw"), rows)


@ipam_app.command("check")
def ipam_check(
    network: _AnyNetwork = "",
    json: Json = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Compare leases with attachments: leaked, damaged and missing ones. Exit code 1 when there are any."""
    from cni_plugin.ctl.look import addresses

    with open_kernel() as kernel:
        rows = or_explain(lambda: addresses.check(kernel, data_dir, network, Records(run_dir)))
    if json:
        show.as_json(rows)
    elif rows:
        show.table("Not as it should be", ("network", "address", "container", "ifname", "problem"), rows)
    else:
        show.out.print("every lease belongs to an attachment, and every attachment has its lease")
    if rows:
        raise typer.Exit(1)


@ipam_app.command("release")
def ipam_release(
    network: Annotated[str, typer.Argument(help="The network.")],
    address: Annotated[str, typer.Argument(help="The address to take back.")],
    force: Annotated[bool, typer.Option("--force", help="Even when an attachment on record has it.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Take back one address, damaged or not, whoever has it."""
    from cni_plugin.ctl.look import addresses

    said = or_explain(lambda: addresses.release(data_dir, network, address, Records(run_dir), force=force))
    show.lines(said)
