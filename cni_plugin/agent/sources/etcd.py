"""etcd v3 as the source of nodes, with flannel's own schema: nodes of both may share one cluster.

    {"type": "etcd", "endpoints": ["https://192.0.2.9:2379", ...], "prefix": "/coreos.com/network", "ttl": 86400,
     "caFile": "/etc/tulle/ca.pem", "certFile": ..., "keyFile": ..., "username": ..., "password": ...}

    /coreos.com/network/config                  {"Network": "10.244.0.0/16", "Backend": {"Type": "host-gw"}}
    /coreos.com/network/subnets/10.244.5.0-24   this node's, by a lease of `ttl` seconds (`lease/`)

Three threads: one listens to the store, one keeps this node's lease there, one tells the agent; a call that hangs holds
up no news. Promises: while etcd is away everything stays as it was and the reason is told; a broken configuration
changes nothing; a store that lost what it knew is filled again by its nodes.
"""

from __future__ import annotations

from threading import Event, Lock, Thread
from time import monotonic

from cni_plugin.agent.sources.contract import Announcement, Mailbox, Snapshot, Source
from cni_plugin.agent.sources.lease.gateway import Access, Compacted, Gateway, server_at
from cni_plugin.agent.sources.lease.keeper import Keeper, Terms, backoff
from cni_plugin.agent.sources.lease.memory import Memory, default_path
from cni_plugin.agent.sources.lease.view import View, peers
from cni_plugin.cluster import Node, settled
from cni_plugin.conf.reading import Conf as Keys
from cni_plugin.conf.reading import invalid
from cni_plugin.network import Address

BESIDE = ()
GATHERING = 0.01
"""Seconds from a change to telling it: nodes often come together."""
_LONGEST_WORDS = 3000
STOOD = 1.0
"""Seconds that a stream must have stood for its end to be no failure."""


class Conf(Keys, frozen=True):
    """How etcd is reached, and what this node takes there; `ttl` and `renew_margin` are seconds."""

    endpoints: tuple[str, ...] = ("http://127.0.0.1:2379",)
    prefix: str = "/coreos.com/network"
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    username: str = ""
    password: str = ""
    ttl: int = 86400
    renew_margin: float = 3600
    reserve: bool = False
    state: str = ""


def check(conf: Conf) -> None:
    """Raises CniError 7."""
    if not conf.endpoints:
        raise invalid("source.endpoints", [], "give at least one, such as https://192.0.2.9:2379")
    for each in conf.endpoints:
        server_at(each)
    if not conf.prefix.startswith("/") or not conf.prefix.strip("/"):
        raise invalid("source.prefix", conf.prefix, "write it as /coreos.com/network")
    if bool(conf.cert_file) != bool(conf.key_file):
        raise invalid("source.certFile", conf.cert_file, "a client's certificate has both certFile and keyFile")
    for key, value in (("ttl", conf.ttl), ("renewMargin", conf.renew_margin)):
        if value < 1:
            raise invalid(f"source.{key}", value, "give seconds, at least 1")


def open_source(conf: Conf, node: str, mailbox: Mailbox) -> EtcdSource:
    """Begin to listen."""
    return EtcdSource(conf, node, mailbox)


class EtcdSource(Source):
    """Its threads run until it is closed; its lease goes on until it ends."""

    def __init__(self, conf: Conf, node: str, mailbox: Mailbox) -> None:
        files = (conf.ca_file, conf.cert_file, conf.key_file)
        access = Access(conf.endpoints, *files, conf.username, conf.password)
        prefix = conf.prefix.rstrip("/") + "/"
        terms = Terms(conf.ttl, min(conf.renew_margin, conf.ttl * 2 / 3), conf.reserve)
        self._node = node
        self._voice = _Voice(mailbox)
        self._listener = Gateway(access)
        self._view = View(prefix, self._changed)
        self._holder = Gateway(access)
        self._addresses: tuple[Address, ...] = ()
        self._keeper = Keeper(self._holder, self._view, terms, node, Memory(conf.state or default_path(), prefix))
        self._over, self._news, self._nudged = Event(), Event(), Event()
        self._nodes: tuple[Node, ...] = ()
        works = {"listen": self._listen, "keep": self._keep, "tell": self._tell}
        self._threads = [Thread(target=each, name=f"etcd-{name}", daemon=True) for name, each in works.items()]
        for each in self._threads:
            each.start()

    def publish(self, said: Announcement) -> None:
        """Write it under this node's key; the first time, take a subnet."""
        if said.addresses != self._addresses:
            self._addresses = said.addresses
            self._nudged.set()
            self._listener.reconnect()
            self._holder.reconnect()
        self._keeper.publish(said)

    def close(self) -> None:
        """End the threads; one that waits for an answer from outside is left to end by itself."""
        self._over.set()
        self._nudged.set()
        self._keeper.stop()
        self._listener.interrupt()
        self._news.set()
        end = monotonic() + 1.5
        for each in self._threads:
            each.join(max(0.0, end - monotonic()))

    def _changed(self) -> None:
        self._news.set()
        self._keeper.wake()

    def _keep(self) -> None:
        self._keeper.run(lambda why: self._voice.trouble("lease", why), self._news.set)

    def _listen(self) -> None:
        """List, and then follow the changes; list again when they are not to be had any more."""
        failures, listed = 0, False
        while not self._over.is_set():
            stood = 0.0
            try:
                if not listed:
                    self._view.load(*self._listener.listed(self._view.prefix), anew=True)
                    listed = True
                for changes in self._listener.changes(self._view.prefix, self._view.revision + 1):
                    stood = stood or self._standing()
                    self._view.apply(changes)
            except Compacted:
                listed = False
            except Exception as error:  # whatever was answered: a thread that ended would never hear anything again
                listed = listed and stood > 0  # a stream that was let in before may be let in again
                if not stood:
                    self._voice.trouble("watch", str(error)[:_LONGEST_WORDS] or type(error).__name__)
            nudged = self._nudged.is_set()  # that we cut it off ourselves is no failure of anybody's
            self._nudged.clear()
            failures = 0 if nudged or (stood and monotonic() - stood > STOOD) else failures + 1
            if failures:
                self._nudged.wait(backoff(failures - 1))

    def _standing(self) -> float:
        """etcd is there: who waits to try again need not wait longer."""
        self._voice.trouble("watch", "")
        self._keeper.hurry()
        return monotonic()

    def _tell(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            if self._over.wait(GATHERING):
                return
            if self._view.revision:
                self._tell_once()

    def _tell_once(self) -> None:
        try:
            self._voice.say(self._snapshot())
            self._voice.trouble("tell", "")
        except Exception as error:  # one bad look must not be the last one
            self._voice.trouble("tell", f"what etcd says cannot be put together: {error!r}"[:_LONGEST_WORDS])

    def _snapshot(self) -> Snapshot:
        """While the configuration is gone the nodes are as they were: the store may have lost them, too."""
        conf, entries = self._view.conf, self._view.entries()
        cidrs, problems = self._keeper.mine(entries)
        problems += self._view.complaints()
        if conf is not None and self._view.whole:
            found, foreign = peers(entries, conf.backend)
            self._nodes, complaints = settled(found, conf.networks)
            problems += (*foreign, *complaints)
        since = next((each.since for each in self._nodes if each.pod_cidrs == cidrs), 0.0)
        return Snapshot(conf, self._nodes, Node(self._node, (), cidrs, since=since), problems=problems)


class _Voice:
    """Speaks to the mailbox for all threads: a snapshot makes no end of what is wrong with the lease."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._lock = Lock()
        self._troubles: dict[str, str] = {}
        self._told: Snapshot | None = None

    def say(self, snapshot: Snapshot) -> None:
        """Tell it, unless it was the last that was told."""
        with self._lock:
            if snapshot != self._told:
                self._told = snapshot
                self._mailbox.put(snapshot)
                self._mailbox.trouble(self._text())

    def trouble(self, who: str, why: str) -> None:
        """What keeps one of the threads from its work, "" for nothing."""
        with self._lock:
            self._troubles[who] = why
            self._mailbox.trouble(self._text())

    def _text(self) -> str:
        return "; ".join(dict.fromkeys(filter(None, self._troubles.values())))
