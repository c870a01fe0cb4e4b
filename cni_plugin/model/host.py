"""What a node or a pod has beside its links and ways: sysctls, what `ethtool` sets of a device, files, daemons."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import ClassVar

from cni_plugin.model.base import HOST, POD, Key, Object, Verb, link_key
from cni_plugin.model.words import on


class Sysctl(Object, frozen=True, tag="sysctl"):
    """A value below /proc/sys. `dev` is the link whose removal takes the key along, if there is one."""

    RANK: ClassVar[int] = 200
    SPOKEN: ClassVar[str] = "host"
    VITAL: ClassVar[tuple[str, ...]] = ("/ip_forward", "/forwarding", "/disable_ipv6")
    BY_NETLINK: ClassVar[tuple[str, ...]] = ("rp_filter", "arp_notify")
    """Of a link's IPv4 settings, those that nothing else in the kernel has to hear of: a message sets the number alone.
    """

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

    @property
    def by_netlink(self) -> bool:
        """A message costs less than a file; and looking a file up below /proc/sys/net takes longer with every namespace

        in which somebody did (fs/proc/proc_sysctl.c, proc_sys_compare).
        """
        if self.name == f"net/ipv6/conf/{self.dev}/addr_gen_mode":
            return True
        return self.name in {f"net/ipv4/conf/{self.dev}/{key}" for key in self.BY_NETLINK}

    @property
    def dispensable(self) -> bool:
        return self.name.startswith("net/ipv6/")

    @property
    def undone(self) -> bool:
        return False  # the node's are shared with everybody

    def words(self, verb: Verb) -> str:
        where = "ip netns exec POD " if self.ns == POD else ""
        return f"# {self.name} is left as it is" if verb == "delete" else f"{where}sysctl -w {self.name}={self.value}"


class Feature(Object, frozen=True, tag="feature"):
    """Transmit checksum offload of a link, as `ethtool -K dev tx on|off` sets it."""

    RANK: ClassVar[int] = 210
    SPOKEN: ClassVar[str] = "host"
    dev: str
    tx_checksum: bool

    @property
    def key(self) -> Key:
        return ("feature", HOST, self.dev)

    @property
    def holder(self) -> Key | None:
        return link_key(HOST, self.dev)

    @property
    def undone(self) -> bool:
        return False  # it goes with its link

    def words(self, verb: Verb) -> str:
        return f"ethtool -K {self.dev} tx {on(self.tx_checksum or verb == 'delete')}"


class File(Object, frozen=True, tag="file"):
    """A file that another program reads. What it holds may be a secret, so it is never among the words.

    It is ours by where it lies: in `place`, a folder of ours; or, with "" for that, by `MARK` in its first line. What
    is ours by neither is never seen, replaced or removed. `mode` is chmod's.
    """

    RANK: ClassVar[int] = 500
    SPOKEN: ClassVar[str] = "host"
    MARK: ClassVar[str] = "made by tulle"
    path: str
    content: str
    mode: int = 0o600
    place: str = ""

    @property
    def key(self) -> Key:
        return ("file", HOST, self.path)

    @property
    def title(self) -> str:
        return f"the file {self.path}"

    def words(self, verb: Verb) -> str:
        if verb == "delete":
            return f"rm {self.path}"
        return f"install -m {self.mode:04o} /dev/stdin {self.path}  # {len(self.content.encode())} bytes"


class Daemon(Object, frozen=True, tag="daemon"):
    """A program of another maker that runs because we want it, in the background, and must stay what it was begun as.

    `argv`: its path first; it does not become another program. `place`: a folder of ours, in which is noted which
    process it is. `digest`: of the files that it reads (`digest_of`); where that changes it is begun anew, or sent the
    signal `reload` if it knows one for that.
    """

    RANK: ClassVar[int] = 510
    SPOKEN: ClassVar[str] = "host"
    FIXED: ClassVar[tuple[str, ...]] = ("argv", "place")
    name: str
    argv: tuple[str, ...]
    place: str
    digest: str = ""
    reload: int = 0

    @property
    def key(self) -> Key:
        return ("daemon", HOST, self.name)

    @property
    def note(self) -> str:
        """Where it is noted which process it is: the first word."""
        return f"{self.place}/daemons/{self.name}"

    @property
    def title(self) -> str:
        return f"the daemon {self.name}"

    def words(self, verb: Verb) -> str:
        process = f"$(cut -d' ' -f1 {self.note})"
        if verb == "change" and self.reload:
            return f"kill -{self.reload} {process}"
        end, begin = f"kill {process}", f"setsid {' '.join(self.argv)} &"
        return {"create": begin, "change": f"{end}; {begin}", "delete": end}[verb]


def digest_of(files: Iterable[File]) -> str:
    """By which a daemon that reads these is known to have read them as they are."""
    whole = sha256()
    for each in files:
        for part in (each.path, each.content):
            whole.update(len(part).to_bytes(8, "big") + part.encode())
    return whole.hexdigest()[:16]


def ipv6_settings(dev: str, ns: str = HOST) -> tuple[Sysctl, ...]:
    """What a link needs to take IPv6 addresses where IPv6 is off for new links, and to keep them while it is down.

    docker and others switch it off in each sandbox (net.ipv6.conf.default.disable_ipv6); a link that goes down loses
    its IPv6 addresses, unlike its IPv4 ones (addrconf_ifdown in net/ipv6/addrconf.c).
    """
    wanted = (("disable_ipv6", "0"), ("keep_addr_on_down", "1"))
    return tuple(Sysctl(f"net/ipv6/conf/{dev}/{key}", value, ns, dev) for key, value in wanted)
