"""Where addresses come from: what each file of this room promises, and how one is found.

An IPAM is told what it needs in an `Ask`, never by a verb or its context, so that whoever wants to know of addresses
(a verb, the agent, `tullectl`) may ask without pretending to be a runtime.

    find("host-local").leases(Ask(Attachment("pods", "c1", "eth0"), conf, alive=...)).add()   ->   Result(ips=...)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, cast

import msgspec

from cni_plugin.attachment import Attachment
from cni_plugin.conf.plugin import IpamConf, RangeConf
from cni_plugin.errors import NOT_AVAILABLE, CniError
from cni_plugin.kernel.host import files
from cni_plugin.rooms import tenant, tenants
from cni_plugin.spec import Result

if TYPE_CHECKING:
    from ipam.allocator import Usage


class Words(msgspec.Struct, frozen=True):
    """A request as the runtime put it, for an IPAM that hands it on to another program.

    `path` is where plugins are looked for, `version` the result's, `previous` the result of the ADD.
    """

    environ: Mapping[str, str] = {}
    stdin: bytes = b""
    version: str = "1.1.0"
    path: tuple[str, ...] = ()
    previous: Mapping[str, object] | None = None


class Ask(msgspec.Struct, frozen=True):
    """What is asked: for which attachment (its names are "" for a question about the network), by which keys.

    `subnets` are this node's own, for who names no ranges; `ranges` and `wanted` are what the runtime asks for this
    one pod. `alive` tells whether an attachment still stands.
    """

    who: Attachment
    conf: IpamConf
    alive: Callable[[Attachment], bool]
    subnets: Sequence[str] = ()
    ranges: Sequence[Sequence[RangeConf]] = ()
    wanted: Sequence[str] = ()
    words: Words = Words()


class Leases:
    """The addresses of one `Ask`; what is not told otherwise holds nothing, as in a network without layer 3.

    `data_dir`: where the leases of all networks are on this node's disk, "" where they are not. What goes wrong is
    raised as CniError or as the IPAM's own errors.
    """

    data_dir: str = ""

    def add(self) -> Result:
        """Lease addresses for the attachment; all or nothing."""
        return Result()

    def preview(self) -> Result:
        """What `add` would give, if nobody else came first; nothing is taken, and nobody who would take it is asked."""
        return Result()

    def delete(self) -> None:
        """Give back what the attachment holds; nothing is success."""

    def check(self, ips: Sequence[str]) -> None:
        """Raises CniError when these addresses are not the attachment's."""

    def collect(self, valid: frozenset[tuple[str, str]] | None) -> None:
        """Give back what attachments hold that are not among these (container, interface); None: it is not known.

        An interface of "" stands for all that the container has.

        A lease alone proves nothing then: another main plugin may have delegated to the IPAM.
        """

    def status(self) -> None:
        """Raises CniError 50 when ADD could not be served."""

    def usage(self) -> Sequence[Usage]:
        """How full each range set is, in order; () where nobody here can know."""
        return ()


class Ipam(Protocol):
    """A file of this room. `Conf` are its keys of `ipam`.

    `NAMES`: what it is called in `ipam.type`, and as an executable. `NEEDS_LINK`: addresses can be had only when the
    pod has an interface, as DHCP needs one to ask through. `WAITS`: it may have to wait for another program, so that
    whoever holds others up meanwhile must not ask.
    """

    NAMES: tuple[str, ...]
    NEEDS_LINK: bool
    WAITS: bool

    @property
    def Conf(self) -> type[IpamConf]: ...

    def leases(self, ask: Ask) -> Leases:
        """The leases that are asked for. Has no effect."""


def served(name: str) -> Ipam | None:
    """The IPAM of this room that bears this name; None for one that is another program."""
    found = cast("Ipam | None", tenant("ipams", name))
    return found if found is not None and name in found.NAMES else None


@lru_cache(maxsize=64)
def find(kind: str) -> Ipam:
    """The IPAM behind an `ipam.type`, whoever serves it."""
    return served(kind) or cast(Ipam, tenant("ipams", "delegated" if kind else "none"))


def names() -> list[str]:
    """What IPAMs of this room are called."""
    return [name for each in tenants("ipams") for name in cast(Ipam, each).NAMES]


def refuse_unwritable(what: str, folder: str) -> None:
    """Raises CniError 50 where ADD could write no file."""
    error = files.obstacle(folder)
    if error is not None:
        raise CniError(NOT_AVAILABLE, f"{what} {folder!r} cannot be written: {error.strerror}: {files.cure(error)}")
