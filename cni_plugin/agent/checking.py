"""`tulled --check`: whether an agent could start with these settings, said before the one that runs is ended for it.

    tulled --check --conf /etc/tulle/agent.json      exit code 0; or 1, and a line for each mistake on stderr

Nothing is opened, asked or changed. Looked at are the settings, and what lies beside them for the source's sake, as in
a pod the other keys of Kubernetes' ConfigMap. An init container of the DaemonSet runs
it: a pod that it fails in never becomes Ready, and so a rolling update stops at the first node, where nothing of the
new release was put in place yet.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from cni_plugin import flannel
from cni_plugin.agent import conflist, settings
from cni_plugin.agent.cluster import whereabouts
from cni_plugin.agent.settings import Settings
from cni_plugin.agent.sources import contract
from cni_plugin.backends import contract as backend
from cni_plugin.conf.plugin import ENDINGS
from cni_plugin.conf.reading import decode, invalid
from cni_plugin.errors import CniError
from cni_plugin.kernel.host import files
from cni_plugin.plugins import parse
from cni_plugin.store.clusters import cluster_file
from cni_plugin.store.records import DEFAULT_RUN_DIR, Records


def mistakes(path: str) -> list[str]:
    """What is wrong with the settings in a file, [] for nothing."""
    try:
        found = settings.load(path)
    except (CniError, OSError) as error:
        return [_words(path, error)]
    told = []
    for where, look in _looks(path, found):
        try:
            look()
        except (CniError, OSError) as error:
            told.append(_words(where, error))
    return told


def _looks(path: str, found: Settings) -> Iterator[tuple[str, Callable[[], object]]]:
    yield path, lambda: whereabouts.check(found.address)
    if found.metrics:
        from cni_plugin.agent.metrics.server import place  # 20 ms, for those who want it

        yield path, lambda: place(found.metrics)
    if found.cni.path:
        yield path, lambda: _destination(found.cni.path)
        yield found.cni.template, lambda: _template(conflist.template(found.cni.template))
    if found.source:
        yield path, lambda: contract.check(found.source)
    for name in contract.beside(found.source):
        beside = os.path.join(os.path.dirname(path), name)
        if os.path.exists(beside) and beside != found.cni.template:
            yield beside, partial(_of_file, LOOKS[name], beside)


def _of_file(look: Callable[[Mapping[str, object]], None], path: str) -> None:
    look(decode(files.follow(path), f"in {path}"))


def _network(raw: Mapping[str, object]) -> None:
    conf = flannel.parse(raw)
    backend.find(conf.backend).configure(conf.options)


def _template(raw: Mapping[str, object] | None) -> None:
    """What will be made of it must be a configuration that the plugin takes."""
    if raw is None:
        return
    whole = conflist.completed(conflist.ours(raw), cluster_file(Records(DEFAULT_RUN_DIR)))
    name = conflist.name_of(whole)
    for plugin in whole["plugins"]:  # type: ignore[attr-defined]
        if plugin.get("type") == "tulle":
            parse({**plugin, "name": name, "cniVersion": whole.get("cniVersion", "1.0.0")})


LOOKS = {"net-conf.json": _network, "cni-conf.json": _template}
"""How a file is looked at that lies beside the settings, by its name."""


def _destination(path: str) -> None:
    if not path.startswith("/") or not path.endswith(ENDINGS):
        remedy = "write a whole path that runtimes look for, such as /etc/cni/net.d/10-tulle.conflist"
        raise invalid("cni.path", path, remedy)


def _words(where: str, error: CniError | OSError) -> str:
    text = error.msg if isinstance(error, CniError) else error.strerror or str(error)
    return text if where in text else f"{where}: {text}"
