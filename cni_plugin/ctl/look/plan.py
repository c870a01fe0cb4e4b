"""`tullectl plan`: what an ADD with a configuration would do on this node as it is; nothing is touched."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from cni_plugin.conf import plugin, reading
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.host import files
from cni_plugin.meter import Meter
from cni_plugin.records import Records
from cni_plugin.spec import Request
from cni_plugin.verbs.context import Context


def first_config(folder: str) -> str:
    """The configuration that a runtime would use: the first in the folder. Raises CniError 7 without one."""
    found = [name for name in files.names(folder) if name.endswith(plugin.ENDINGS)]
    if not found:
        raise CniError(INVALID_CONFIG, f"there is no network configuration in {folder}: name one, or install one there")
    return f"{folder}/{found[0]}"


def context(path: str, pod: tuple[str, str], kernel: Kernel, records: Records) -> Context:
    """The context of an ADD with the configuration in this file. Raises CniError 6 or 7."""
    raw = _plugin_of(path)
    container, ifname = pod
    request = Request("ADD", container, "", ifname, {}, (), netns_override=False)
    name = str(raw.get("type", "tulle"))
    return Context(
        name, request, {}, raw, msgspec.json.encode(raw), reading.version_of(raw), plugin.parse(raw), kernel, records,
        Meter(),
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
    ours = [each for each in plugins if isinstance(each, dict) and each.get("type") in ("tulle", "bridge")]
    if not ours:
        raise CniError(INVALID_CONFIG, f"{path!r}: no plugin of type tulle or bridge in its list")
    return {"name": raw.get("name"), "cniVersion": raw.get("cniVersion"), **ours[0]}
