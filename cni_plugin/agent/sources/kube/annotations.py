"""What annotations say of a node: ours, of its Lease or its object, flannel's, and those of operators.

    tulle.network/address: 192.0.2.1                        announced by an agent
    tulle.network/public-ip-overwrite: 203.0.113.1          by an operator, instead
    flannel.alpha.coreos.com/public-ip: 192.0.2.1           by flannel, where no agent of ours is

Pure. Rubbish is ignored, and told with the node, the key, the value and a remedy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from cni_plugin import decoding, network
from cni_plugin.backends.contract import misfits
from cni_plugin.errors import CniError
from cni_plugin.network import Address, Network

OURS = "tulle.network/"
"""The prefix of our annotations: `address`, `ipv6-address`, `backend`, `backend-data`; and of the operators' two."""
FLANNELS = "flannel.alpha.coreos.com/"
"""The prefix of flannel's (pkg/subnet/kube/annotations.go)."""
PUBLIC = {4: "public-ip", 6: "public-ipv6"}
"""What flannel calls the addresses. Ours and flannel's overwriting keys are these with `-overwrite`."""
ANNOUNCED = tuple(f"{OURS}{each}" for each in ("address", "ipv6-address", "backend", "backend-data"))
"""What an agent says of its node: annotations of its Lease."""
KEPT = {family: f"{OURS}{each}-overwrite" for family, each in PUBLIC.items()}
"""What it keeps in mind there, for itself: `Own.inherited`."""
MANAGED = f"{FLANNELS}kube-subnet-manager"
_LONGEST_DATA = 4096
_LONGEST_QUOTE = 80


class Said(msgspec.Struct, frozen=True):
    """What a node announced, with keys of `prefix` ("" for nothing), and what of it could not be understood."""

    prefix: str = ""
    addresses: Mapping[int, Address] = {}
    backend: str = ""
    data: Mapping[str, str] = {}
    problems: tuple[str, ...] = ()


class Reader:
    """Reads one node's annotations, or its Lease's, and keeps what there is to complain about."""

    def __init__(self, name: str, notes: Mapping[str, str]) -> None:
        self._name = name
        self._notes = notes
        self.usable = True
        self.problems: list[str] = []
        self.prefix = ""
        if any(each in notes for each in ANNOUNCED):
            self.prefix = OURS
        elif notes.get(MANAGED) == "true":
            self.prefix = FLANNELS

    def complain(self, problem: str) -> None:
        """Once, however often the same is looked at."""
        if problem not in self.problems:
            self.problems.append(problem)

    def subnets(self, key: str, texts: Iterable[str]) -> Iterator[Network]:
        """The pod CIDRs, by the key of its specification that they stand under."""
        for text in texts:
            try:
                yield network.network_of(key, text, masked=True)
            except CniError:
                self.usable = False
                self.complain(
                    f"node {self._name} is left out: spec.{key} has {_quoted(text)}, which is no network: "
                    "see what allocates the cluster's pod CIDRs"
                )

    def internal(self, texts: Iterable[str]) -> Iterator[Address]:
        """The kubelet's InternalIPs, in its order."""
        for text in texts:
            address = self._address("status.addresses", text, None)
            if address is not None:
                yield address

    def said(self) -> Said:
        """What was announced by them."""
        addresses, backend, data = self._told(), self.backend(), self.data()
        return Said(self.prefix, addresses, backend, data, tuple(self.problems))

    def overwritten(self) -> dict[int, Address]:
        """What an operator says instead; our key goes before flannel's."""
        keys = [(family, f"{prefix}{name}-overwrite") for prefix in (FLANNELS, OURS) for family, name in PUBLIC.items()]
        return dict(self._addresses(keys))

    def wished(self) -> dict[int, Address]:
        """What an operator asked this node's own flannel to tell (kube.go: GetStoredPublicIP)."""
        return dict(self._addresses((family, f"{FLANNELS}node-{name}") for family, name in PUBLIC.items()))

    def inherited(self, internal: tuple[Address, ...]) -> dict[int, Address]:
        """What this node's flannel told before we came, as far as it is not what the kubelet says of itself."""
        before = self._told() if self.prefix == FLANNELS else {}
        return {family: each for family, each in before.items() if each not in internal}

    def backend(self) -> str:
        """The announced backend's name."""
        key = {OURS: "backend", FLANNELS: "backend-type"}.get(self.prefix, "")
        return self._notes.get(f"{self.prefix}{key}", "") if key else ""

    def data(self) -> Mapping[str, str]:
        """What the backend announced, keys in lower case. flannel says "null" where there is nothing to say."""
        if not self.prefix:
            return {}
        found: dict[str, str] = {}
        for name in ("backend-v6-data", "backend-data") if self.prefix == FLANNELS else ("backend-data",):
            key = f"{self.prefix}{name}"
            found.update(self._object(key, self._notes.get(key, "") or "null"))
        for key, meant in misfits(found, self.backend()).items():
            self._ignore(f"{self.prefix}backend-data", found.pop(key), meant)
        return found

    def _told(self) -> dict[int, Address]:
        if not self.prefix:
            return {}
        if self.prefix == FLANNELS:
            return dict(self._addresses((family, f"{FLANNELS}{name}") for family, name in PUBLIC.items()))
        first = self._address(f"{OURS}address", self._notes.get(f"{OURS}address", ""), None)
        second = self._address(f"{OURS}ipv6-address", self._notes.get(f"{OURS}ipv6-address", ""), 6)
        return {each.version: each for each in (second, first) if each is not None}

    def _addresses(self, keys: Iterator[tuple[int, str]] | list[tuple[int, str]]) -> Iterator[tuple[int, Address]]:
        for family, key in keys:
            address = self._address(key, self._notes.get(key, ""), family)
            if address is not None:
                yield family, address

    def _address(self, key: str, text: str, family: int | None) -> Address | None:
        """None when there is none, or none that a packet could be sent to."""
        if not text:
            return None
        try:
            address = network.address_of(key, text, family)
        except CniError:
            self._ignore(key, text, f"it must be an {f'IPv{family} ' if family else ''}address")
            return None
        if why := network.unusable(address):
            self._ignore(key, text, f"it must be an address that the other nodes can send to, and it is {why}")
            return None
        return address

    def _object(self, key: str, text: str) -> Mapping[str, str]:
        try:
            found = msgspec.convert(decoding.decode(text[: _LONGEST_DATA + 1]), dict[str, object] | None) or {}
        except msgspec.MsgspecError:
            self._ignore(key, text, f"it must be a JSON object of at most {_LONGEST_DATA} bytes")
            return {}
        return {
            name.lower(): each if isinstance(each, str) else msgspec.json.encode(each).decode()
            for name, each in found.items()
        }

    def _ignore(self, key: str, value: str, remedy: str) -> None:
        where = "annotation " if "/" in key else ""
        self.complain(f"node {self._name}: {where}{key} is {_quoted(value)} and is ignored: {remedy}")


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_QUOTE else f"{text[: _LONGEST_QUOTE - 3]}...")
