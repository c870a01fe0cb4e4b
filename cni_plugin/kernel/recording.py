"""A kernel that is only told what it would be asked to do: a real ADD on it is a preview.

What stands is read from another kernel, once for each object; what is applied changes the picture of it and nothing
else, so that whoever looks again sees what he did. The pod's namespace is a new one. Promise: for who does the same on
the kernel below, the same operations come out, as long as that one refuses none.

    recorder = Recorder(kernel, ops.extend)
    recorder.apply([Op("create", Bridge("tulle0"))])     the kernel below hears nothing of it
    recorder.link_index("tulle0")                        ->  a number
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from cni_plugin.diff import Op
from cni_plugin.kernel.door import Kernel, OwnLink, Uplink
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.marks import TABLE
from cni_plugin.model.base import HOST, POD, Key, Object, State, link_key, state
from cni_plugin.model.host import Sysctl
from cni_plugin.model.layer3 import Addr, Way
from cni_plugin.model.links import Tunnel, Veth


class Recorder(FakeKernel):
    """`door.Kernel` over another one; `told` hears of each batch of operations, before it counts as done."""

    def __init__(self, below: Kernel, told: Callable[[Sequence[Op]], object]) -> None:
        super().__init__()
        self._below = below
        self._told = told
        self._known: set[Key] = set()
        self._changed: set[Key] = set()

    def apply(self, ops: Sequence[Op]) -> None:
        """Only noted."""
        self._told(ops)
        for op in ops:
            self._known.add(op.object.key)
            if op.verb != "change":
                self._changed.add(op.object.key)
        super().apply(ops)

    def read(self, wanted: Iterable[Object]) -> State:
        """What stands below, with what was done here."""
        found = list(wanted)
        new = [each for each in found if not self._is_ours(each)]
        if new:
            self._learn(self._below.read(new))
            self._known.update(each.key for each in new)
        return super().read(found)

    def addresses(self, dev: str) -> tuple[str, ...]:
        """Of a link that stands below, and was not made anew here, also what is there."""
        self._learn(state(Addr(dev, each) for each in self._below.addresses(dev)))
        return super().addresses(dev)

    def link_index(self, name: str) -> int:
        """That of the kernel below, or some number for a link that was made here."""
        return super().link_index(name) if link_key(HOST, name) in self._changed else self._below.link_index(name)

    def link_mac(self, name: str) -> str:
        """That of the kernel below, or some MAC for a link that was made here."""
        return super().link_mac(name) if link_key(HOST, name) in self._changed else self._below.link_mac(name)

    def link_mtu(self, name: str) -> tuple[str, int] | None:
        """That of the kernel below, or of a link that was made here."""
        return super().link_mtu(name) if link_key(HOST, name) in self._changed else self._below.link_mtu(name)

    def uplink(self, address: str) -> Uplink | None:
        """As below."""
        return self._below.uplink(address)

    def default_mtu(self) -> int:
        """As below."""
        return self._below.default_mtu()

    def interfaces(self) -> Mapping[str, tuple[str, ...]]:
        """As below."""
        return self._below.interfaces()

    def ways(self, addresses: Iterable[str]) -> dict[str, Way]:
        """As below."""
        return self._below.ways(addresses)

    def taught(self) -> tuple[str, ...]:
        """As below."""
        return self._below.taught()

    def out_of_reach(self, wanted: Iterable[Sysctl]) -> tuple[str, ...]:
        """As below."""
        return self._below.out_of_reach(wanted)

    def rival(self, device: Tunnel) -> str:
        """As below."""
        return self._below.rival(device)

    def lacks(self, features: Collection[str]) -> tuple[str, ...]:
        """As below."""
        return self._below.lacks(features)

    def release(self) -> str:
        """As below."""
        return self._below.release()

    def owned(self, *devices: str) -> State:
        """What stands below, with what was done here."""
        self._learn(self._below.owned(*devices))
        return super().owned(*devices)

    def elements(self, name: str, table: str = TABLE) -> State:
        """What stands below, with what was done here."""
        self._learn(self._below.elements(name, table))
        return super().elements(name, table)

    def own_links(self) -> tuple[OwnLink, ...]:
        """Those below that were let be, and those that were made here."""
        there = [each for each in self._below.own_links() if link_key(HOST, each.name) not in self._changed]
        made = [each for each in super().own_links() if link_key(HOST, each.name) in self._changed]
        return (*there, *made)

    def ports(self, bridge: str) -> int:
        """Those below, unless the bridge was made here, and those that were made here."""
        there = 0 if link_key(HOST, bridge) in self._changed else self._below.ports(bridge)
        return there + sum(each.master == bridge and each.key in self._changed for each in self._all(Veth))

    def locally_held(self) -> frozenset[str]:
        """As below, with what was given here."""
        return self._below.locally_held() | super().locally_held()

    def _learn(self, found: State) -> None:
        """What is known already is not what it was: it was changed here."""
        for key, each in found.items():
            if not self._is_ours(each):
                self.state[key] = each

    def _is_ours(self, each: Object) -> bool:
        """Whether the kernel below has no word in it: it was read, the pod is new, or its link was made or deleted."""
        return each.key in self._known or each.key[1] == POD or each.holder in self._changed

    def _refusal(self, op: Op) -> int:
        """Nothing is refused: what a kernel would refuse, it alone knows."""
        del op
        return 0
