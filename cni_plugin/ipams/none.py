"""No IPAM: a network without layer 3, in which frames are switched and nothing is routed."""

from __future__ import annotations

from cni_plugin.conf.plugin import IpamConf
from cni_plugin.ipams.contract import Ask, Leases

NAMES: tuple[str, ...] = ()
NEEDS_LINK = False
WAITS = False


class Conf(IpamConf, frozen=True):
    """No keys."""


def leases(ask: Ask) -> Leases:
    """None, for everybody."""
    del ask
    return Leases()
