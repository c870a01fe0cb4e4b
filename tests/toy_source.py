"""A source that nobody needs: a file with a line a node, which is looked at all the time."""

from __future__ import annotations

SOURCE = '''
    """Nodes as lines of a file: name, address, subnet. What this node announces is written beside it."""

    from ipaddress import ip_address, ip_network
    from threading import Event, Thread

    from cni_plugin import network
    from cni_plugin.agent.sources.contract import Snapshot, Source
    from cni_plugin.cluster import Node
    from cni_plugin.conf.reading import Conf as Keys, invalid
    from cni_plugin.kernel.host import files

    BESIDE = ("net-conf.json",)
    NETWORK = network.parse({"network": "10.244.0.0/16", "backend": {"type": "host-gw"}})


    class Conf(Keys, frozen=True):
        lines: str = "/etc/tulle/nodes"


    def check(conf):
        if not conf.lines.startswith("/"):
            raise invalid("source.lines", conf.lines, "write the whole path of a file")


    class ToySource(Source):
        def __init__(self, path, node, mailbox):
            self._path, self._node, self._mailbox = path, node, mailbox
            self._over = Event()
            self._thread = Thread(target=self._live, daemon=True)
            self._thread.start()

        def publish(self, said):
            files.write(f"{self._path}.said", f"{said.backend} {said.addresses[0]}".encode())

        def close(self):
            self._over.set()
            self._thread.join()

        def _live(self):
            told = None
            while not self._over.wait(0.005):
                text = files.read(self._path)
                if text is not None and text != told:
                    told = text
                    nodes = tuple(node_of(*line.split()) for line in text.decode().splitlines())
                    me = next((each for each in nodes if each.name == self._node), None)
                    self._mailbox.put(Snapshot(NETWORK, nodes, me))


    def node_of(name, address, subnet):
        return Node(name, (ip_address(address),), (ip_network(subnet),))


    def open_source(conf, node, mailbox):
        return ToySource(conf.lines, node, mailbox)
'''


def lines(*numbers: int, link: str = "192.0.2") -> str:
    """What the file says of these nodes: n1 is 192.0.2.1, with 10.244.1.0/24."""
    return "".join(f"n{each} {link}.{each} 10.244.{each}.0/24\n" for each in numbers)
