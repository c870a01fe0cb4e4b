"""The kernel's table of connections, which drops new ones for everybody when it is full."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from cni_plugin.ctl.doctor.contract import ERROR, NODE, WARNING, Finding
from cni_plugin.ctl.eyes import Eyes, number

LAYER = NODE
_COUNT, _MOST = (f"net/netfilter/nf_conntrack_{each}" for each in ("count", "max"))


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """How many there are, and may be; nothing where no one tracks connections."""

    sysctls: dict[str, str] = {}


def gather(eyes: Eyes) -> Facts:
    """As the kernel tells it."""
    return Facts(sysctls=eyes.sysctls((_COUNT, _MOST)))


def conntrack_full(facts: Facts) -> Iterator[Finding]:
    """The table of connections is nearly full."""
    used, most = (number(facts.sysctls.get(each)) for each in (_COUNT, _MOST))
    if most and used >= most * 9 // 10:
        yield Finding(
            "conntrack-full", ERROR if used >= most else WARNING, _COUNT,
            f"{used} of {most}",
            "new connections are dropped when the table is full: clients see random time-outs under load",
            f"sysctl -w {_MOST}={most * 4}",
        )


FINDINGS = {conntrack_full: ("conntrack-full",)}
