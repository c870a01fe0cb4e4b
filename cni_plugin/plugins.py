"""What a configuration stands for: its keys, typed as the files of the rooms have them.

    parse({"name": "pods", "type": "tulle", "ipam": {"type": "host-local", ...}})   ->   NetConf(name="pods", ...)
"""

from __future__ import annotations

from collections.abc import Mapping

from cni_plugin.conf import plugin
from cni_plugin.conf.plugin import IpamConf, NetConf
from cni_plugin.ipams.contract import find


def parse(raw: Mapping[str, object]) -> NetConf:
    """The configuration of a main plugin, checked. Raises CniError 2 or 7."""
    return plugin.parse(raw, _ipam)


def parse_for_ipam(raw: Mapping[str, object], name: str) -> NetConf:
    """What the IPAM of this name may look at of a main plugin's configuration. Raises CniError 7."""
    return plugin.parse_for_ipam(raw, lambda _: find(name).Conf)


def parse_name(raw: Mapping[str, object], folder: str = "/") -> NetConf:
    """What DEL needs of one that need not be whole. Raises CniError 7 without a good name."""
    return plugin.parse_name(raw, _ipam, folder)


def bare_ipam(kind: str, data_dir: str) -> IpamConf:
    """What it takes to give back to an IPAM, by what is on record."""
    return plugin.bare(kind, data_dir, _ipam)


def _ipam(kind: str) -> type[IpamConf]:
    return find(kind).Conf
