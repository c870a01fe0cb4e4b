"""The commands of `tullectl` that tell what to put right, and put it right: doctor, repair and cleanup."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from cni_plugin.conf.plugin import DEFAULT_DATA_DIR
from cni_plugin.ctl import show
from cni_plugin.ctl.options import DEFAULT_CONF_DIR, ConfDir, DataDir, Json, RunDir, or_explain
from cni_plugin.kernel.open import open_kernel
from cni_plugin.store.records import DEFAULT_RUN_DIR, Records


def repair(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is not as it should be.")] = False,
    json: Json = False,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Compare all that is on record with the kernel, and put right what differs."""
    from cni_plugin.ctl.look.diff import rows
    from cni_plugin.ctl.look.show import repairs
    from cni_plugin.node.repair import repair as put_right

    with open_kernel() as kernel:
        found = or_explain(lambda: put_right(kernel, Records(run_dir), dry_run=dry_run))
    show.as_json(rows(found)) if json else repairs(found, dry_run=dry_run)
    if any(each.problem or (dry_run and each.ops) for each in found):
        raise typer.Exit(1)


def doctor(
    probe: Annotated[bool, typer.Option("--probe/--no-probe", help="Send packets to the peers.")] = True,
    json: Json = False,
    conf_dir: ConfDir = DEFAULT_CONF_DIR,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Find out what is wrong with this node, and explain it: what was seen, why it matters, what to do."""
    from cni_plugin.ctl import diagnosis
    from cni_plugin.ctl.eyes import Eyes, Places
    from cni_plugin.ctl.findings import findings
    from cni_plugin.ctl.host import Host

    places = Places(data_dir, conf_dir or DEFAULT_CONF_DIR)
    with open_kernel() as kernel:
        found = diagnosis.examine(Eyes(kernel, Records(run_dir), places, Host(), probing=probe))
    show.as_json(msgspec.to_builtins(found)) if json else findings(found)
    if diagnosis.ill(found):
        raise typer.Exit(1)


def cleanup(
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this only say what would go.")] = False,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Remove all that Tulle made on this node outside of pods: bridges, tunnels, routes, the nft table."""
    from cni_plugin.ctl.cleanup import cleanup
    from cni_plugin.describe import script

    with open_kernel() as kernel:
        ops = or_explain(lambda: cleanup(kernel, Records(run_dir), really=yes))
    show.lines(script(ops) if ops else "nothing of ours is here")
    if ops and not yes:
        show.err.print("nothing was done: add --yes to do it")
