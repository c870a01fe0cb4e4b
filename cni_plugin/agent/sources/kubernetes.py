"""The cluster as Kubernetes has it: Node objects, and a ConfigMap with the network configuration.

    {"type": "kubernetes"}                                          in a pod, by its service account
    {"type": "kubernetes", "kubeconfig": "/etc/tulle/kubeconfig", "configMap": "kube-tulle/tulle-config"}

    Node.spec.podCIDRs                      the subnets of its pods, from the controller manager
    Node.status.addresses                   its addresses
    Lease of the node's name                what its agent announced; beside the ConfigMap
    annotations flannel.alpha...            what flannel announced, where there is no Lease
    ConfigMap net-conf.json, cni-conf.json  the network, and the CNI configuration of all nodes

Five threads: one follows the nodes, one the Leases, one the ConfigMap, one writes this node's own Lease, and one puts
together what is known and hands it to the agent. An API that is away changes nothing: what was known stays, and the
mailbox says why there is nothing newer.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from threading import Event as Flag
from threading import Thread
from time import monotonic, thread_time

import msgspec

from cni_plugin.agent.sources.contract import Announcement, Mailbox, Snapshot, Source
from cni_plugin.agent.sources.kube.api import NODES, Api, config_map, leases
from cni_plugin.agent.sources.kube.follow import Follower, Pace
from cni_plugin.agent.sources.kube.lease import read_lease
from cni_plugin.agent.sources.kube.objects import Configured, Lease, Seen, read_config, read_node
from cni_plugin.agent.sources.kube.publish import Publisher
from cni_plugin.agent.sources.kube.view import View, has_flannel, own_of, snapshot
from cni_plugin.conf.reading import Conf as Keys
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.network import Address

_GOODBYE = 1.5
_SHARE = 4.0
"""Putting together takes at most one part in five of a core: four times the processor time that it took is waited."""
BESIDE = ("net-conf.json", "cni-conf.json")
"""In a pod the keys of the ConfigMap, agent.json among them, are files of one folder."""


class Conf(Keys, frozen=True):
    """`kubeconfig`: a file, "" for the service account of the pod that this is. `config_map`: namespace/name."""

    kubeconfig: str = ""
    config_map: str = "kube-tulle/tulle-config"


class KubernetesSource(Source):
    """Its threads run until it is closed; what it published stays."""

    def __init__(self, conf: Conf, node: str, mailbox: Mailbox, pace: Pace) -> None:
        self._node = node
        self._mailbox = mailbox
        self._pace = pace
        self._ended = Flag()
        self._view = View()
        self._told: Snapshot | None = None
        self._addresses: tuple[Address, ...] = ()
        namespace, _, name = conf.config_map.partition("/")
        connect = partial(Api, conf.kubeconfig, pace.answer)
        view = self._view
        self._publisher = Publisher(connect, namespace, view.unpublished, pace)
        nodes = Follower[Seen](connect, NODES, partial(read_node, this_node=node), _Nodes(view), pace)
        announced = Follower[Lease | None](
            connect, leases(namespace), partial(read_lease, this_node=node), _Leases(view, namespace), pace
        )
        config = Follower[msgspec.Raw](
            connect, config_map(namespace, name), lambda raw: raw, _ConfigMap(view, conf.config_map), pace
        )
        self._others = (self._publisher, nodes, announced, config)
        runs = {
            "nodes": nodes.run, "leases": announced.run, "configmap": config.run,
            "publish": self._publisher.run, "tell": self._tell,
        }
        self._threads = [Thread(target=run, name=f"kubernetes-{each}", daemon=True) for each, run in runs.items()]
        for thread in self._threads:
            thread.start()

    def publish(self, said: Announcement) -> None:
        """Say so in this node's Lease, and keep it so.

        With other addresses than before, connections may begin at one that is gone, where no answer and no end of them
        can be heard: they are made anew. The first time that is looked up: a node may have moved since it began.
        """
        if said.addresses != self._addresses:
            for each in self._others:
                each.reconnect(stranded=not self._addresses)
        self._addresses = said.addresses
        self._publisher.say(said)

    def ready(self) -> None:
        """Where there is a condition NetworkUnavailable, make it false, and keep it so."""
        self._publisher.up()

    def close(self) -> None:
        """End the threads; one that waits for a server that is not there ends with the process."""
        self._ended.set()
        self._view.rung.set()
        for each in self._others:
            each.stop()
        until = monotonic() + _GOODBYE
        for thread in self._threads:
            thread.join(max(0.0, until - monotonic()))

    def _tell(self) -> None:
        while True:
            self._view.rung.wait()
            self._view.rung.clear()
            if self._ended.is_set():
                return
            begun = thread_time()  # what others took of the machine meanwhile must not make us wait longer still
            try:
                self._tell_once()
            except Exception as error:  # one bad look must not be the last one
                self._mailbox.trouble(f"what the Kubernetes API says cannot be put together: {error!r}")
            self._ended.wait(max(self._pace.spacing, _SHARE * (thread_time() - begun)))

    def _tell_once(self) -> None:
        """The publisher first: who hears the snapshot may publish at once, and what is shown already is not patched."""
        known = self._view.known()
        seen = known.seen or ()
        self._publisher.shown(own_of(seen, self._node), flannel=has_flannel(seen, self._node))
        whole = snapshot(known, self._node)
        if whole is not None and whole != self._told:
            self._told = whole
            self._mailbox.put(whole)
        self._mailbox.trouble("; ".join(known.troubles))


class _Nodes:
    """Puts nodes into the view."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.replace = view.nodes
        self.change = view.node

    def trouble(self, why: str, *, refused: bool = False) -> None:
        """They cannot be followed, and why."""
        del refused
        self._view.trouble("nodes", why)


class _Leases:
    """Puts Leases into the view. Where they may not be read, the cluster is what the Node objects say."""

    def __init__(self, view: View, namespace: str) -> None:
        self._view = view
        self._namespace = namespace
        self.replace = view.leases
        self.change = view.lease

    def trouble(self, why: str, *, refused: bool = False) -> None:
        """They cannot be followed, and why."""
        self._view.trouble("leases", "" if refused else why)
        remains = "nodes are reached where their objects and annotations say"
        self._view.unleased(f"no Leases in {self._namespace}, so {remains}: {why}" if refused else "")


class _ConfigMap:
    """Puts the configuration into the view; one that was deleted leaves what it said in force."""

    def __init__(self, view: View, name: str) -> None:
        self._view = view
        self._name = name

    def trouble(self, why: str, *, refused: bool = False) -> None:
        """It cannot be followed, and why."""
        del refused
        self._view.trouble("configuration", why)

    def replace(self, known: Mapping[str, msgspec.Raw]) -> None:
        """This is it, or there is none."""
        self.change("", next(iter(known.values()), None))

    def change(self, _: str, value: msgspec.Raw | None) -> None:
        """It is new or another; None when there is none any more."""
        before = self._view.configured()
        if value is not None:
            self._view.configure(read_config(value, before))
            return
        remains = "what it said stays in force" if before.conf else "create it with the key net-conf.json"
        self._view.configure(Configured(before.conf, before.cni, (f"there is no ConfigMap {self._name}: {remains}",)))


def check(conf: Conf) -> None:
    """Raises CniError 7 for a ConfigMap that is not namespace/name."""
    namespace, _, name = conf.config_map.partition("/")
    if not namespace or not name or "/" in name:
        remedy = "write namespace/name, such as kube-tulle/tulle-config"
        raise CniError(INVALID_CONFIG, f"invalid source.configMap {conf.config_map!r}: {remedy}")


def open_source(conf: Conf, node: str, mailbox: Mailbox) -> KubernetesSource:
    """Begin. The API need not be there yet."""
    return KubernetesSource(conf, node.lower(), mailbox, Pace())  # a name there has no capitals (RFC 1123)
