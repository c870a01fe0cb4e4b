"""`tullectl plan`: what an ADD with a configuration would do, in order: a real one, on a kernel that only takes notes.

Addresses are previewed and nothing is written, so the same ADD, if nobody else comes first, makes these operations,
and answers the errors that this one ends with. What it says on stderr is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from cni_plugin import plugins, spec
from cni_plugin.conf import plugin, reading
from cni_plugin.diff import Op
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.features.contract import of_node
from cni_plugin.ipams import contract as ipams
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.host import files
from cni_plugin.kernel.recording import Recorder
from cni_plugin.meter import Meter
from cni_plugin.model.base import POD
from cni_plugin.model.links import Veth
from cni_plugin.store.clusters import load
from cni_plugin.store.preview import PreviewedRecords
from cni_plugin.verbs.context import Context
from cni_plugin.verbs.run import handler
from cni_plugin.wirings import contract as wirings

_CLUSTER, _SHARED, _POD = "this node's part of the cluster", "what pods share", "the pod"


class PlanStep(NamedTuple):
    """Operations that belong together, with what they are for."""

    title: str
    ops: Sequence[Op]


def first_config(folder: str) -> str:
    """The configuration that a runtime would use: the first in the folder. Raises CniError 7 without one."""
    found = [name for name in files.names(folder) if name.endswith(plugin.ENDINGS)]
    if not found:
        raise CniError(INVALID_CONFIG, f"there is no network configuration in {folder}: name one, or install one there")
    return f"{folder}/{found[0]}"


def plan_add(path: str, pod: tuple[str, str], kernel: Kernel, run_dir: str) -> list[PlanStep]:
    """The steps of ADD for a pod (container, interface) with the configuration in a file. Raises what ADD would."""
    found: dict[str, list[Op]] = {}
    records = PreviewedRecords(run_dir)
    recorder = Recorder(kernel, lambda ops: found.setdefault(_topic(context, ops), []).extend(ops))
    context = _context(_plugin_of(path), pod, recorder, records)
    handler(context.name, context.plugin, "ADD")(context)
    titles = _titles(context)
    in_order = (_CLUSTER, *(each.NAME for each in of_node()), _SHARED, _POD)
    told = [topic for topic in in_order if topic in titles or topic in found]
    return [PlanStep(titles.get(topic, topic), found.get(topic, ())) for topic in told]


def _context(raw: Mapping[str, object], pod: tuple[str, str], kernel: Kernel, records: PreviewedRecords) -> Context:
    """As `verbs.run` makes it of a request. Raises CniError 1, 6 or 7."""
    version = reading.version_of(raw)
    spec.check_version(version)
    found = plugins.parse(raw)
    if found.wiring is None:
        raise CniError(INVALID_CONFIG, f"{raw.get('type')!r} wires no pod by itself: name the configuration of one of "
                       f"{', '.join(wirings.names())}")
    found = msgspec.structs.replace(found, conf=plugin.located(found.conf, files.here()))
    if ipams.find(found.conf.ipam.type).WAITS:
        version = spec.VERSIONS[-1]  # what another program would give is not asked; only older ones need an address
    container, ifname = pod
    request = spec.Request("ADD", container, "", ifname, {}, (), netns_override=False)
    environ = {"CNI_NETNS": "", "TULLE_RUN_DIR": records.run_dir}
    name = str(raw.get("type", "tulle"))
    return Context(
        name, request, environ, raw, msgspec.json.encode(raw), version, found, kernel, records, Meter(), preview=True
    )


def _plugin_of(path: str) -> Mapping[str, object]:
    """The configuration of our plugin in a file: of a list the entry of ours, with the list's name and version."""
    try:
        raw = reading.decode(files.follow(path), f"in {path}")
    except OSError as error:
        raise CniError(INVALID_CONFIG, f"{path!r}: {error.strerror}; name a file that can be read") from error
    plugins = raw.get("plugins")
    if not isinstance(plugins, list):
        return raw
    served = wirings.names()
    ours = [each for each in plugins if isinstance(each, dict) and each.get("type") in served]
    if not ours:
        raise CniError(INVALID_CONFIG, f"{path!r}: no plugin of type {' or '.join(served)} in its list")
    return {"name": raw.get("name"), "cniVersion": raw.get("cniVersion"), **ours[0]}


def _topic(context: Context, ops: Sequence[Op]) -> str:
    """What a batch is about: before the attachment is on record it is the cluster."""
    keys = {op.object.key for op in ops}
    feature = next((each.NAME for each in of_node() if not keys.isdisjoint(each.places())), "")
    if feature:
        return feature
    if Veth(context.attachment.host_dev).key in keys or any(op.object.key[1] == POD for op in ops):
        return _POD
    return _SHARED if context.records.find(context.attachment) else _CLUSTER


def _titles(context: Context) -> dict[str, str]:
    """What is told of also when there is nothing to do."""
    titles, link = {_POD: _POD}, context.wiring.link(context.conf)
    if link:
        titles[_SHARED] = f"the {context.wiring.LINK} {link}"
    facts = load(context.records, context.conf.name) if context.conf.cluster is not None else None
    if facts is not None:
        titles[_CLUSTER] = f"{_CLUSTER}: {facts.peers} peers by {facts.backend}"
    noted = (each for each in of_node() if context.records.note(each.NAME, context.conf.name, each.CLAIM) is not None)
    return {**titles, **{each.NAME: each.NAME for each in noted}}
