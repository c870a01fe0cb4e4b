"""What is added to an interface, or to the node for it: what each file of this room promises, and how one is found.

A feature works in two places. A wiring that names it among its own serves it with the same request: one executable, one
record. Under a name of its own it is chained after any main plugin, and is given that one's result. Either way it says
what it claims for one attachment, which is kept on record, and what of the kernel follows from the claim alone.

    feature.claim(conf, Asked(who, previous))  ->  a claim   ->   feature.pod(claim, who)  ->  {sysctl, qdisc, ...}
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar, cast

import msgspec

from cni_plugin.attachment import Attachment
from cni_plugin.conf.reading import Conf as Keys
from cni_plugin.model.base import State
from cni_plugin.rooms import tenant, tenants
from cni_plugin.spec import Result


class Asked(msgspec.Struct, frozen=True):
    """For whom a feature is asked: the result so far, CNI_ARGS, and the networks that are inside of the cluster."""

    who: Attachment
    previous: Result
    args: Mapping[str, str] = {}
    inside: tuple[str, ...] = ()


class Feature:
    """A file of this room has one, called `feature`.

    `NAME` is that of its claims, `NAMES` what runtimes call it where it can be chained. `KEYS` are its own keys,
    `CLAIM` is how a claim is kept. `NEEDS`: what it needs of the kernel where anything is claimed, in the words of
    `kernel.modules`, and what each is needed for, in a user's.
    """

    NAME: ClassVar[str]
    NAMES: ClassVar[tuple[str, ...]] = ()
    KEYS: ClassVar[type[Keys]]
    CLAIM: ClassVar[type[msgspec.Struct]]
    NEEDS: ClassVar[Mapping[str, str]] = {}

    def wanted(self, conf: Any) -> bool:
        """Whether a configuration asks for it at all."""
        return bool(conf != self.KEYS())

    def waits(self, conf: Any) -> bool:
        """Whether an ADD may take long by what is asked of it, so that nobody else should wait for it."""
        del conf
        return False

    def claim(self, conf: Any, asked: Asked) -> msgspec.Struct | None:
        """What is claimed for an attachment, None for nothing. Raises CniError 7 for what cannot be had."""
        raise NotImplementedError

    def pod(self, claim: Any, who: Attachment) -> State:
        """What stands for this attachment alone, in its namespace and on the node."""
        del claim, who
        return {}

    def result(self, claim: Any, previous: Result) -> Result:
        """What the result tells beside what it told before."""
        del claim
        return previous

    def kept(self, claim: Any) -> msgspec.Raw:
        """The claim as the attachment's record has it."""
        return msgspec.Raw(msgspec.json.encode(claim))

    def status(self, conf: Any) -> str:
        """Why the next ADD could not be served, "" where it could."""
        del conf
        return ""


class World(msgspec.Struct, frozen=True):
    """What the node's part of features follows from: what each network claims, by the stems of their names."""

    networks: Mapping[str, msgspec.Struct]


class NodeFeature(Feature):
    """A feature for which something stands once on the node, in `inet tulle`, whatever the number of pods.

    It follows from what networks claim of it; when such a claim comes or goes, it is made true anew.
    """

    def state(self, world: World) -> State:
        """All of it; {} when nobody claims any."""
        raise NotImplementedError

    def joined(self, known: Any, claim: Any) -> msgspec.Struct:
        """What a network claims that has something noted, so that pods from before a change keep what they have."""
        raise NotImplementedError

    def places(self) -> State:
        """Where it may stand: what is looked at, and is to go when nobody claims any."""
        raise NotImplementedError

    def ready(self, claim: Any, name: str, have: State) -> bool:
        """Whether what stands covers this claim of a network."""
        raise NotImplementedError


@lru_cache(maxsize=64)
def find(name: str) -> Feature | None:
    """The feature whose claims are called so."""
    found = cast("Feature | None", getattr(tenant("features", name), "feature", None))
    return found if found is not None and name == found.NAME else None


def called(name: str) -> Feature:
    """The same for who knows that there is one."""
    found = find(name)
    assert found is not None
    return found


def served(name: str) -> Feature | None:
    """The feature that runtimes chain by this name, None for what is none."""
    found = cast("Feature | None", getattr(tenant("features", name), "feature", None))
    return found if found is not None and name in found.NAMES else None


def every() -> list[Feature]:
    """All of them, by their files."""
    return [cast(Feature, each.feature) for each in tenants("features")]


def of_node() -> list[NodeFeature]:
    """Those of which something stands once on the node."""
    return [each for each in every() if isinstance(each, NodeFeature)]


def names() -> list[str]:
    """What features are called where they are chained."""
    return [name for each in every() for name in each.NAMES]
