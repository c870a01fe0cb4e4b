"""Our own host-local: the configuration's ranges, the allocator in `ipam`, and a result of what it gave.

    {"type": "host-local", "ranges": [[{"subnet": "10.22.0.0/24"}]]}   ->   10.22.0.2/24, with the gateway 10.22.0.1
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_interface
from typing import Protocol, TypeAlias, cast

from cni_plugin.conf.plugin import DEFAULT_DATA_DIR, IpamConf, RangeConf
from cni_plugin.conf.reading import invalid
from cni_plugin.errors import CHECK_FAILED, INVALID_CONFIG, NOT_AVAILABLE, CniError
from cni_plugin.ipams.contract import Ask, Leases, refuse_unwritable
from cni_plugin.kernel.host import files
from cni_plugin.spec import Dns, IPConfig, Result, RouteConfig, check_address, check_prefix
from ipam import ranges
from ipam.allocator import Allocator, Lease, Usage
from ipam.store import Owner

NAMES = ("host-local",)
NEEDS_LINK = False
WAITS = False


class Conf(IpamConf, frozen=True):
    """`subnet` and what is beside it are a range of their own, which goes before `ranges`."""

    PATHS = ("data_dir", "resolv_conf")
    WHOLE = True
    data_dir: str = ""
    subnet: str = ""
    range_start: str = ""
    range_end: str = ""
    gateway: str = ""
    ranges: tuple[tuple[RangeConf, ...], ...] = ()
    routes: tuple[RouteConfig, ...] = ()
    resolv_conf: str = ""

    @property
    def subnets(self) -> tuple[str, ...]:
        """Its own, and those of its ranges."""
        found = (self.subnet, *(each.subnet for group in self.ranges for each in group))
        return tuple(filter(None, found))

    @property
    def folder(self) -> str:
        """As it is written."""
        return self.data_dir

    def check(self) -> None:
        """Raises CniError 7 for a route that leads nowhere."""
        for each in self.routes:
            for key, text, verify in (("dst", each.dst, check_prefix), ("gw", each.gw, check_address)):
                try:
                    if text or key == "dst":
                        verify(text)
                except ValueError:
                    raise invalid(f"ipam.routes.{key}", text, "write dst as address/prefix and gw as address") from None


class _Ranged(Protocol):
    @property
    def subnet(self) -> str: ...
    @property
    def range_start(self) -> str: ...
    @property
    def range_end(self) -> str: ...
    @property
    def gateway(self) -> str: ...


_MOST_RESOLV_CONF = 1 << 20
"""Bytes; resolvers read a few lines."""
_Words: TypeAlias = tuple[tuple[str, str], ...]


class LocalLeases(Leases):
    """The in-process IPAM of one request."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._conf = cast(Conf, ask.conf)
        self._owner = Owner(ask.who.container, ask.who.ifname)
        self.data_dir = self._conf.data_dir or DEFAULT_DATA_DIR

    def add(self) -> Result:
        """Raises IpamError; CniError 7 without ranges or for a resolvConf that cannot be read."""
        dns = _resolv_conf(self._conf.resolv_conf)
        return self._result(self._allocator().allocate(self._owner, self._wanted()), dns)

    def preview(self) -> Result:
        """Raises as `add` does."""
        dns = _resolv_conf(self._conf.resolv_conf)
        return self._result(self._allocator().preview(self._wanted()), dns)

    def delete(self) -> None:
        """Raises StoreError."""
        self._bare().release(self._owner)

    def check(self, ips: Sequence[str]) -> None:
        """Raises CniError 101 unless the attachment holds each of these."""
        held = {str(each) for each in self._bare().find(self._owner)}
        lost = sorted({str(ip_interface(each).ip) for each in ips} - held)
        if lost or not held:
            raise CniError(
                CHECK_FAILED,
                f"host-local: {self._owner.container} {self._owner.ifname} does not hold "
                f"{', '.join(lost) or 'any address'}: delete and add the attachment anew",
            )

    def collect(self, valid: frozenset[tuple[str, str]] | None) -> None:
        """Raises CollectError that tells all that could not be given back."""
        if valid is None:
            return
        store = self._bare()
        keep = {Owner(container, ifname) for container, ifname in valid}
        whole = {container for container, ifname in valid if not ifname}
        if whole:
            keep |= {owner for _, owner in store.leases() if owner.container in whole}
        store.collect(keep)

    def status(self) -> None:
        """Raises CniError 50 when a range set is full or its folder cannot be written."""
        folder = f"{self.data_dir}/{self._ask.who.network}"
        refuse_unwritable("ipam.dataDir", folder)
        for each in self.usage():
            if not each.free:
                raise CniError(
                    NOT_AVAILABLE,
                    f"no free address in range set {each.range_set} of network {self._ask.who.network} "
                    f"({each.used} of {each.size} in use): widen ipam.ranges, or look for leaks with "
                    "'tullectl ipam check'",
                )

    def usage(self) -> tuple[Usage, ...]:
        """How full each range set is."""
        return self._allocator().usage()

    def _wanted(self) -> list[IPv4Address | IPv6Address]:
        return [_address(each) for each in self._ask.wanted]

    def _result(self, given: Sequence[Lease], dns: Dns) -> Result:
        ips = tuple(IPConfig(str(each.address), str(each.gateway or "")) for each in given)
        return Result(ips=ips, routes=self._conf.routes, dns=dns)

    def _allocator(self) -> Allocator:
        """With the ranges, which only giving needs."""
        conf = self._conf
        own, extra, groups = _canonical(conf), _groups(self._ask.ranges), _groups(conf.ranges)
        if not (extra or groups or conf.subnet):
            groups = _ranges(self._ask.subnets)
        sets = _sets(own, groups, extra)
        if not sets:
            raise CniError(INVALID_CONFIG, "invalid ipam.ranges []: no IP ranges specified; give at least one subnet")
        return self._open(sets)

    def _bare(self) -> Allocator:
        """Without ranges: to find and to give back needs none, and DEL may come with a broken configuration."""
        return self._open(())

    def _open(self, sets: Sequence[ranges.RangeSet]) -> Allocator:
        return Allocator(self.data_dir, self._ask.who.network, sets, boot_id=files.boot_id(), is_alive=self._is_alive)

    def _is_alive(self, owner: Owner) -> bool:
        """After a reboot a lease is void unless its attachment still stands."""
        return self._ask.alive(self._ask.who._replace(container=owner.container, ifname=owner.ifname))


def leases(ask: Ask) -> LocalLeases:
    """The leases in the network's folder."""
    return LocalLeases(ask)


def _address(text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_interface(text).ip
    except ValueError:
        raise invalid("ips", text, "write each as an address, or as address/prefix") from None


def _canonical(each: _Ranged) -> _Words:
    pairs = (
        ("subnet", each.subnet),
        ("rangeStart", each.range_start),
        ("rangeEnd", each.range_end),
        ("gateway", each.gateway),
    )
    return tuple(pair for pair in pairs if pair[1])


def _groups(groups: Sequence[Sequence[_Ranged]]) -> tuple[tuple[_Words, ...], ...]:
    return tuple(tuple(map(_canonical, group)) for group in groups)


def _ranges(cidrs: Sequence[str]) -> tuple[tuple[_Words, ...], ...]:
    """One set a family, so that a pod gets an address of each."""
    families = (tuple((("subnet", each),) for each in cidrs if (":" in each) == six) for six in (False, True))
    return tuple(group for group in families if group)


@lru_cache(maxsize=64)
def _sets(
    own: _Words, groups: tuple[tuple[_Words, ...], ...], extra: tuple[tuple[_Words, ...], ...]
) -> tuple[ranges.RangeSet, ...]:
    """The range sets that these words mean; remembered, for all pods of a network have the same. Raises RangeError."""
    raw, more = ([[dict(each) for each in group] for group in which] for which in (groups, extra))
    return ranges.parse({**dict(own), "ranges": raw}, more)


def _resolv_conf(path: str) -> Dns:
    """A file in the format of resolv.conf(5). Raises CniError 7 when it cannot be read, OSError when not now."""
    if not path:
        return Dns()
    try:
        text = files.follow(path, _MOST_RESOLV_CONF).decode(errors="replace")
    except OSError as error:
        if error.errno not in files.MISNAMED:
            raise
        raise CniError(
            INVALID_CONFIG, f"invalid ipam.resolvConf {path!r}: {error.strerror}; name a file that can be read"
        ) from error
    servers: list[str] = []
    search: tuple[str, ...] = ()
    domain, options = "", []
    for line in text.splitlines():
        match line.split():
            case ["nameserver", server, *_]:
                servers.append(server)
            case ["domain", name, *_]:
                domain = name
            case ["search", *names]:
                search = tuple(names)
            case ["options", *words]:
                options.extend(words)
    return Dns(tuple(servers), domain, search, tuple(options))
