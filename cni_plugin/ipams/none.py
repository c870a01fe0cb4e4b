"""No IPAM: a network without layer 3, in which frames are switched and nothing is routed."""

from __future__ import annotations

from collections.abc import Sequence

from cni_plugin.conf.plugin import IpamConf
from cni_plugin.ipams.contract import Ask
from cni_plugin.spec import Result

NAMES: tuple[str, ...] = ()
NEEDS_LINK = False
WAITS = False


class Conf(IpamConf, frozen=True):
    """No keys."""


class NoLeases:
    """Nothing is held, and nothing can run out."""

    data_dir = ""

    def add(self) -> Result:
        """No address."""
        return Result()

    preview = add

    def delete(self) -> None:
        """Nothing to give back."""

    def check(self, ips: Sequence[str]) -> None:
        """Nothing is claimed."""

    def collect(self, valid: frozenset[tuple[str, str]] | None) -> None:
        """Nothing is held."""

    def status(self) -> None:
        """Nothing can run out."""

    def usage(self) -> tuple[()]:
        """Nothing is used."""
        return ()


def leases(ask: Ask) -> NoLeases:
    """The same for everybody."""
    del ask
    return NoLeases()
