"""`tullectl`, the operator's tool: what would be done, what stands, who has which address, and what to put right.

    tullectl plan /etc/cni/net.d/10-tulle.conflist
    tullectl status --json
    tullectl ipam list tulle
    tullectl repair

It works with the same states and records as the plugin, and needs neither a runtime nor an agent. Exit codes: 0 all
is well, 1 something is not (and it says what), 2 the command line is wrong.
"""

from __future__ import annotations

import json as jsonlib
import os
from collections.abc import Callable, Sequence
from typing import Annotated, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from cni_plugin.client import VERSION
from cni_plugin.ctl import addresses, view
from cni_plugin.describe import script
from cni_plugin.kernel.door import open_kernel
from cni_plugin.records import DEFAULT_RUN_DIR, Records
from cni_plugin.verbs.run import as_cni_error

app = typer.Typer(
    help="Look inside Tulle, the container network of this node.", no_args_is_help=True, add_completion=False
)
ipam_app = typer.Typer(help="The addresses of the in-process host-local IPAM.", no_args_is_help=True)
app.add_typer(ipam_app, name="ipam")
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Answer = TypeVar("Answer")
RunDir = Annotated[str, typer.Option("--run-dir", envvar="TULLE_RUN_DIR", help="Where the records are.")]
DataDir = Annotated[str, typer.Option("--data-dir", help="The IPAM's dataDir.")]


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"tullectl {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    del version


@app.command()
def plan(
    config: Annotated[str, typer.Argument(help="A network configuration: *.conf, *.json or *.conflist.")] = "",
    container: Annotated[str, typer.Option(help="The container ID to plan for.")] = "example",
    ifname: Annotated[str, typer.Option(help="The interface's name in the pod.")] = "eth0",
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Print what an ADD with this configuration would do, in the words of ip, bridge and nft; nothing is touched."""
    from cni_plugin.verbs.plan import plan_add

    with open_kernel() as kernel:
        records = Records(run_dir)
        steps = _or_explain(
            lambda: plan_add(view.context(config or view.first_config(), (container, ifname), kernel, records))
        )
    for step in steps:
        out.print(f"[bold]# {step.title}[/]")
        out.print(script(step.ops) if step.ops else "# nothing to do: it is as it should be", markup=False)


@app.command()
def status(json: Json = False, run_dir: RunDir = DEFAULT_RUN_DIR) -> None:
    """Show attachments, addresses used and free, and peers."""
    with open_kernel() as kernel:
        report = _or_explain(lambda: view.report(kernel, Records(run_dir)))
    if json:
        print(jsonlib.dumps(report, indent=2))
        return
    _table("Networks", ("network", "used", "free", "of", "attachments", "masquerade"), report["networks"])
    _table("Attachments", ("network", "container", "ifname", "ips", "host", "netns", "state"), report["attachments"])
    _table("Clusters", ("network", "node", "backend", "device", "mtu", "peers"), report["clusters"])


@app.command()
def repair(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is not as it should be.")] = False,
    json: Json = False,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Compare all that is on record with the kernel, and put right what differs."""
    from cni_plugin.verbs.repair import repair as walk

    with open_kernel() as kernel:
        found = _or_explain(lambda: list(walk(kernel, Records(run_dir), dry_run=dry_run)))
    if json:
        shape = [{"what": each.what, "ops": script(each.ops).splitlines(), "problem": each.problem} for each in found]
        print(jsonlib.dumps(shape, indent=2))
    else:
        for each in found:
            verdict = each.problem or ("right" if not each.ops else "wrong" if dry_run else "put right")
            out.print(f"{each.what}: {verdict}", markup=False)
            if each.ops:
                out.print(script(each.ops), markup=False)
    if any(each.problem or (dry_run and each.ops) for each in found):
        raise typer.Exit(1)


@app.command()
def cleanup(
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this only say what would go.")] = False,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Remove all that Tulle made on this node outside of pods: bridges, VXLAN devices, routes, the nft table."""
    with open_kernel() as kernel:
        ops = _or_explain(lambda: view.cleanup(kernel, Records(run_dir), really=yes))
    out.print(script(ops) if ops else "nothing of ours is here", markup=False)
    if ops and not yes:
        err.print("nothing was done: add --yes to do it")


@ipam_app.command("list")
def ipam_list(
    network: Annotated[str, typer.Argument(help="A network; all of them without one.")] = "",
    json: Json = False,
    data_dir: DataDir = addresses.DEFAULT_DATA_DIR,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """List the addresses in use, and whose they are."""
    rows = _or_explain(lambda: addresses.leases(data_dir, network, Records(run_dir)))
    if json:
        print(jsonlib.dumps(rows, indent=2))
    else:
        _table("Addresses", ("network", "address", "container", "ifname", "flaw"), rows)


@ipam_app.command("check")
def ipam_check(
    network: Annotated[str, typer.Argument(help="A network; all of them without one.")] = "",
    json: Json = False,
    data_dir: DataDir = addresses.DEFAULT_DATA_DIR,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Compare leases with attachments: leaked, damaged and missing ones. Exit code 1 when there are any."""
    with open_kernel() as kernel:
        rows = _or_explain(lambda: addresses.check(kernel, data_dir, network, Records(run_dir)))
    if json:
        print(jsonlib.dumps(rows, indent=2))
    elif rows:
        _table("Not as it should be", ("network", "address", "container", "ifname", "problem"), rows)
    else:
        out.print("every lease belongs to an attachment, and every attachment has its lease")
    if rows:
        raise typer.Exit(1)


@ipam_app.command("release")
def ipam_release(
    network: Annotated[str, typer.Argument(help="The network.")],
    address: Annotated[str, typer.Argument(help="The address to take back.")],
    force: Annotated[bool, typer.Option("--force", help="Even when an attachment on record has it.")] = False,
    data_dir: DataDir = addresses.DEFAULT_DATA_DIR,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Take back one address, damaged or not, whoever has it."""
    said = _or_explain(lambda: addresses.release(data_dir, network, address, Records(run_dir), force=force))
    out.print(said, markup=False)


def _or_explain(step: Callable[[], Answer]) -> Answer:
    try:
        return step()
    except Exception as error:
        _fail(as_cni_error(error).msg)


def _fail(message: str) -> NoReturn:
    err.print(f"tullectl: {message}", markup=False)
    raise typer.Exit(1)


def _table(title: str, columns: Sequence[str], rows: Sequence[object]) -> None:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for each in columns:
        table.add_column(each, overflow="fold")
    for row in rows:
        assert isinstance(row, dict)
        table.add_row(*(_cell(row.get(each)) for each in columns))
    out.print(table if rows else f"{title}: none")


def _cell(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str("" if value is None else value)


def main() -> None:
    """The entry point."""
    os.umask(0o077)
    app()


if __name__ == "__main__":
    main()
