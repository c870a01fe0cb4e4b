"""Addresses: how full the ranges are, and which leases and attachments disagree."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from cni_plugin import decoding
from cni_plugin.ctl.doctor.contract import ERROR, PODS, WARNING, Finding
from cni_plugin.ctl.eyes import Eyes
from cni_plugin.ctl.look.addresses import check
from cni_plugin.verbs.usage import usage

LAYER = PODS
_WAYS_OUT = "let the runtime collect what is left over (GC), delete pods, or widen ipam.ranges; tullectl ipam check"


class RangeUse(msgspec.Struct, frozen=True):
    """The addresses of one range set."""

    network: str
    ranges: str
    used: int
    size: int


class Flaw(msgspec.Struct, frozen=True):
    """A lease and an attachment that disagree, as `tullectl ipam check` tells it."""

    network: str
    address: str
    container: str
    problem: str


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Every range set, and every lease that is not as it should be."""

    pools: tuple[RangeUse, ...] = ()
    flaws: tuple[Flaw, ...] = ()


def gather(eyes: Eyes) -> Facts:
    """What the address folders hold."""
    return Facts(
        pools=eyes.notes.many("addresses", lambda: _pools(eyes)), flaws=eyes.notes.many("leases", lambda: _flaws(eyes))
    )


def pools(facts: Facts) -> Iterator[Finding]:
    """Addresses that are used up, or nearly."""
    for each in facts.pools:
        if each.size and each.used * 10 > each.size * 9:
            full = each.used >= each.size
            yield Finding(
                "pool-exhausted" if full else "pool-nearly-exhausted", ERROR if full else WARNING,
                f"addresses of {each.network} in {each.ranges}", f"{each.used} of {each.size} in use",
                "new pods stay in ContainerCreating: no address is free" if full
                else "soon new pods will not start for want of an address",
                _WAYS_OUT,
            )


def flawed_leases(facts: Facts) -> Iterator[Finding]:
    """Leases without an attachment, damaged ones, attachments without one."""
    for each in facts.flaws:
        damaged = each.problem.startswith("damaged")
        lost = each.problem.startswith("in use")
        name = "damaged-lease" if damaged else "missing-lease" if lost else "leaked-address"
        yield Finding(
            name, ERROR if lost else WARNING, f"lease {each.address} in {each.network}",
            f"{each.container}: {each.problem}" if each.container else each.problem,
            "the address may be given to a second pod" if lost else "the address is lost to new pods until it is freed",
            "delete that pod: its address is not protected" if lost
            else f"let the runtime collect (GC), or: tullectl ipam release {each.network} {each.address}",
        )


def _pools(eyes: Eyes) -> Iterator[RangeUse]:
    """By the configurations in the runtime's folder, and by the attachments' own where those have none."""
    raws = {each.conf.name: each.raw for each in eyes.read if each.conf is not None}
    for record in eyes.recorded:
        raws.setdefault(record.network, decoding.decode(record.conf))
    for network, raw in raws.items():
        for each in usage(eyes.kernel, eyes.records, raw):
            yield RangeUse(network, f"range set {each.range_set}", each.used, each.size)


def _flaws(eyes: Eyes) -> Iterator[Flaw]:
    """Each once, whatever the number of folders that tell of it."""
    rows = (row for folder in eyes.folders for row in check(eyes.kernel, folder, "", eyes.records))
    found = (Flaw(*(str(row[key]) for key in ("network", "address", "container", "problem"))) for row in rows)
    yield from dict.fromkeys(found)


FINDINGS = {
    pools: ("pool-exhausted", "pool-nearly-exhausted"),
    flawed_leases: ("leaked-address", "damaged-lease", "missing-lease"),
}
