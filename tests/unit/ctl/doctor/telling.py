"""What the tests of the doctor share: a node told by a test, of which each topic hears what it has a field for."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from cni_plugin.ctl import diagnosis
from cni_plugin.ctl.doctor.contract import Finding
from cni_plugin.ctl.doctor.contract import topics as every_topic
from cni_plugin.ctl.eyes import bridges_of, families_of

Told: TypeAlias = dict[str, Any]
"""Facts by name; what two topics have under one name is one thing."""


def facts(told: Told) -> dict[str, msgspec.Struct]:
    """Each topic's own, as far as they are told. Bridges and families follow from the rest."""
    links, own, pods, configs = (told.get(each, ()) for each in ("links", "own", "pods", "configs"))
    known = {"bridges": bridges_of(links, own, pods), "families": families_of(pods, configs), **told}
    topics = every_topic()
    fields = {name: topic.Facts.__struct_fields__ for name, topic in topics.items()}
    assert known.keys() <= {each for names in fields.values() for each in names}, "a fact that no topic asks for"
    return {
        name: topic.Facts(**{key: known[key] for key in fields[name] if key in known}) for name, topic in topics.items()
    }


def diagnose(told: Told) -> list[Finding]:
    """What the doctor says of such a node."""
    return diagnosis.diagnose(facts(told), told.get("unknown", {}))
