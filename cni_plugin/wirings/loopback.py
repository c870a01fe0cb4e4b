"""The loopback of a pod, which each has from birth, and down: runtimes have it set up by a plugin of this name.

    ip -n POD link set lo up

It is the reference plugin's, but that a result before 0.3.0 has the shape of its version.
"""

from __future__ import annotations

from collections.abc import Callable

from cni_plugin.attachment import Attachment
from cni_plugin.kernel.door import Kernel
from cni_plugin.model.base import POD, State, state
from cni_plugin.model.layer3 import Addr
from cni_plugin.model.links import Up
from cni_plugin.spec import Interface
from cni_plugin.wirings.contract import Want, Wiring

LO = "lo"
"""Whatever CNI_IFNAME says: a pod has one, and of this name."""
NO_MAC = "00:00:00:00:00:00"


class LoopbackWiring(Wiring):
    """Nothing of it is on the node, and nothing outlives the pod."""

    NAMES = ("loopback",)
    KEPT = False

    def pod(self, want: Want) -> State:
        """That it is up."""
        del want
        return state([Up(LO, POD)])

    def offered(self) -> State:
        """What the kernel gives it as it comes up, of the families that are not switched off."""
        return state([Addr(LO, "127.0.0.1/8", POD), Addr(LO, "::1/128", POD)])

    def interfaces(self, want: Want, mac_of: Callable[[str], str]) -> tuple[Interface, ...]:
        """Itself."""
        del mac_of
        return (Interface(LO, NO_MAC, sandbox=want.sandbox),)

    def bare(self, who: Attachment) -> State:
        """Nothing on the node."""
        del who
        return {}

    def alive(self, who: Attachment, kernel: Kernel) -> bool:
        """The node does not tell."""
        del who, kernel
        return False


wiring = LoopbackWiring()
