"""What a verb is given: the request, the configuration, and the doors it may use."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import NamedTuple

from cni_plugin.attachment import Attachment
from cni_plugin.conf.plugin import NetConf
from cni_plugin.kernel.door import Kernel
from cni_plugin.meter import Meter
from cni_plugin.plugins import Plugin
from cni_plugin.spec import Request
from cni_plugin.store.records import Records
from cni_plugin.wirings.contract import Wiring

_MOST_SOUND, _LONGEST_SOUND = 64, 64 << 10
_sound: set[bytes] = set()
"""Configurations in which nothing is doubtful: an agent is asked in the same words for each pod of a network."""


class MustWait(BaseException):
    """The request has to wait for another program, and may not where it is served: it is to be served elsewhere.

    No error, so that nothing but what takes back what was done takes notice of it.
    """


class Context(NamedTuple):
    """One request. `name` is what the plugin was called by; `version` the result's; `stdin` as it came.

    `waits`: whether it may wait for another program here; `preview`: nothing is to be leased, for nothing is made.
    """

    name: str
    request: Request
    environ: Mapping[str, str]
    raw: Mapping[str, object]
    stdin: bytes
    version: str
    plugin: Plugin
    kernel: Kernel
    records: Records
    meter: Meter
    waits: bool = True
    preview: bool = False

    @property
    def conf(self) -> NetConf:
        """The configuration."""
        return self.plugin.conf

    @property
    def wiring(self) -> Wiring:
        """Who wires the pod, where a main plugin is called."""
        assert self.plugin.wiring is not None
        return self.plugin.wiring

    @property
    def attachment(self) -> Attachment:
        """What the request is about."""
        return Attachment(self.conf.name, self.request.container, self.request.ifname)

    def tell_doubts(self) -> None:
        """On stderr, as there is no other place for what is probably a mistake and no error."""
        if self.stdin in _sound:
            return
        from cni_plugin import doubts  # not every verb asks

        found = doubts.of_plugin(self.raw, self.conf, *self.plugin.features.values())
        for each in found:
            print(f"tulle: {self.conf.name}: {each}", file=sys.stderr)
        if not found and len(self.stdin) <= _LONGEST_SOUND:
            if len(_sound) >= _MOST_SOUND:
                _sound.clear()
            _sound.add(self.stdin)
