"""What a node or a pod is set to beside its links and ways: sysctls, and what `ethtool` sets of a device."""

from __future__ import annotations

from typing import ClassVar

from cni_plugin.model.base import HOST, Key, Object, link_key


class Sysctl(Object, frozen=True, tag="sysctl"):
    """A value below /proc/sys. `dev` is the link whose removal takes the key along, if there is one."""

    VITAL: ClassVar[tuple[str, ...]] = ("/ip_forward", "/forwarding", "/disable_ipv6")

    name: str
    value: str
    ns: str = HOST
    dev: str = ""

    @property
    def key(self) -> Key:
        return ("sysctl", self.ns, self.name)

    @property
    def vital(self) -> bool:
        """Whether pods get no packets without it; all else makes things surer or quicker and may stay as it is."""
        return self.name.endswith(self.VITAL)

    @property
    def holder(self) -> Key | None:
        return link_key(self.ns, self.dev) if self.dev else None


class Feature(Object, frozen=True, tag="feature"):
    """Transmit checksum offload of a link, as `ethtool -K dev tx on|off` sets it."""

    dev: str
    tx_checksum: bool

    @property
    def key(self) -> Key:
        return ("feature", HOST, self.dev)

    @property
    def holder(self) -> Key | None:
        return link_key(HOST, self.dev)


def ipv6_settings(dev: str, ns: str = HOST) -> tuple[Sysctl, ...]:
    """What a link needs to take IPv6 addresses where IPv6 is off for new links, and to keep them while it is down.

    docker and others switch it off in each sandbox (net.ipv6.conf.default.disable_ipv6); a link that goes down loses
    its IPv6 addresses, unlike its IPv4 ones (addrconf_ifdown in net/ipv6/addrconf.c).
    """
    wanted = (("disable_ipv6", "0"), ("keep_addr_on_down", "1"))
    return tuple(Sysctl(f"net/ipv6/conf/{dev}/{key}", value, ns, dev) for key, value in wanted)
