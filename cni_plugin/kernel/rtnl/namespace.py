"""One network namespace as it is spoken to: a netlink socket opened inside, and its links by name and number.

Names are for people and for state; the kernel wants numbers. Each is looked up once and kept until `forget`, so
that a whole pod costs one look-up a link. Promise: questions about a link that does not exist have empty answers.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import lru_cache

from cni_plugin.kernel.host.knobs import read_sysctl
from cni_plugin.kernel.host.netns import inside
from cni_plugin.kernel.rtnl.codec import RTM_GETLINK, Attr, Message, encode
from cni_plugin.kernel.rtnl.netlink import Netlink, Refused
from cni_plugin.kernel.rtnl.settings import link_of, told
from cni_plugin.model.host import Sysctl

RTEXT_FILTER_SKIP_STATS = 1 << 3
"""Leave the counters out of answers about links, include/uapi/linux/rtnetlink.h."""

_NO_NAME = (errno.ERANGE, errno.EINVAL, errno.ENAMETOOLONG)
"""What the kernel says to a name that no link can have: to one longer than IFNAMSIZ, for example."""


class Namespace:
    """The namespace behind a descriptor, or the calling thread's for None. The descriptor is closed with this.

    Raises OSError, and has closed it then.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = descriptor
        try:
            self.netlink = Netlink(inside=self.inside)
        except BaseException:
            if descriptor is not None:
                os.close(descriptor)
            raise
        self._index: dict[str, int] = {}
        self._seen: dict[str, Message] = {}

    def close(self) -> None:
        """Close the socket and the descriptor."""
        self.netlink.close()
        if self.descriptor is not None:
            os.close(self.descriptor)

    def inside(self) -> AbstractContextManager[None]:
        """The calling thread is in this namespace while the block runs."""
        return inside(self.descriptor)

    def link(self, name: str) -> Message | None:
        """The link of this name as it stands now."""
        found = self._ask(name, 0)
        if found is None:
            self.forget(name)
        else:
            self._index[name], self._seen[name] = found.link, found
        return found

    def link_at(self, index: int) -> Message | None:
        """The link of this number as it stands now."""
        return self._ask("", index) if index > 0 else None

    def links(self) -> Iterator[Message]:
        """All links. A dump."""
        fields = {"family": 0}
        attrs = [("IFLA_EXT_MASK", RTEXT_FILTER_SKIP_STATS)]
        yield from self.netlink.dump(encode(RTM_GETLINK, 0, fields, [*attrs]))

    def sysctl(self, each: Sysctl) -> str | None:
        """The value of a setting, None when there is no such key. Raises OSError.

        A link's is as it was when the link was looked up, which is not done again until `forget`.
        """
        dev = link_of(each)
        value = told(self._seen.get(dev) or self.link(dev), each) if dev else None
        if value is not None:
            return value
        with self.inside():
            return read_sysctl(each)

    def known(self, name: str) -> int:
        """The number of a link that was looked up before, else 0."""
        return self._index.get(name, 0)

    def index(self, name: str) -> int:
        """The number of a link, 0 when there is none."""
        if not self.known(name):
            self.link(name)
        return self.known(name)

    def name(self, index: int) -> str:
        """The name of the link of this number, "" when there is none."""
        for name, known in self._index.items():
            if known == index:
                return name
        found = self.link_at(index)
        if found is None:
            return ""
        name = found.text("IFLA_IFNAME")
        self._index[name] = index
        return name

    def forget(self, name: str = "") -> None:
        """Look this link up again the next time, or every one."""
        for known in (self._index, self._seen):
            if name:
                known.pop(name, None)
            else:
                known.clear()

    def is_peer(self, link: Message, other: Message) -> bool:
        """Whether a link of another namespace is the other end of this one's.

        Links are numbered in each namespace anew, so the kernel is asked for that end itself, which it finds by this
        namespace's number for the other (IFLA_IF_NETNSID, Linux 4.15).
        """
        there = link.number("IFLA_LINK_NETNSID", default=-1)
        if there < 0:  # both ends are here
            return False
        attrs: list[Attr] = [("IFLA_IF_NETNSID", there)]
        fields = {"family": 0, "index": link.number("IFLA_LINK")}
        peer = self.netlink.ask(encode(RTM_GETLINK, 0, fields, attrs))
        names = ("IFLA_IFNAME", "IFLA_ADDRESS")
        return peer is not None and all(peer.text(each) == other.text(each) for each in names)

    def _ask(self, name: str, index: int) -> Message | None:
        try:
            return self.netlink.ask(bytearray(_question(name, index)))
        except Refused as refused:
            if refused.errno not in _NO_NAME:
                raise
            return None


@lru_cache(maxsize=256)
def _question(name: str, index: int) -> bytes:
    """What asks for one link: a pod's ADD does it eight times, mostly about the same bridge and the same eth0."""
    attrs: list[Attr] = [("IFLA_IFNAME", name)] if name else []
    attrs.append(("IFLA_EXT_MASK", RTEXT_FILTER_SKIP_STATS))
    return bytes(encode(RTM_GETLINK, 0, {"family": 0, "index": index}, attrs))
