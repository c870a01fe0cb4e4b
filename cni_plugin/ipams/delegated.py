"""A foreign IPAM: another executable, called with the same environment and the same configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from cni_plugin import delegate
from cni_plugin.conf import reading
from cni_plugin.conf.plugin import IpamConf
from cni_plugin.errors import DELEGATE_FAILED, INCOMPATIBLE_VERSION, CniError
from cni_plugin.ipams.contract import Ask, Leases
from cni_plugin.spec import VERBS, VERSIONS, Result, at_least, parse_result, render
from cni_plugin.wish import passed_over

NAMES: tuple[str, ...] = ()
NEEDS_LINK = True
WAITS = True
_GIVING_BACK = ("DEL", "GC")
_LAST_WORD = 5.0
"""Seconds for the DEL after an ADD that failed: one that is stuck has had its time."""


class Conf(IpamConf, frozen=True):
    """But its type: its other keys are its own, and may mean anything."""


class DelegatedLeases(Leases):
    """The IPAM executable of one request. It can be asked for no preview, and not how full it is."""

    def __init__(self, ask: Ask) -> None:
        self._words = ask.words
        self._kind = ask.conf.type

    def add(self) -> Result:
        """When it fails, or gives nothing, it is told DEL before the error goes on (specification, section 4)."""
        try:
            lease = parse_result(self._call("ADD"), f"the result of ipam.type {self._kind!r}")
            if not lease.ips:
                raise CniError(
                    DELEGATE_FAILED,
                    f"IPAM plugin returned missing IP config: ipam.type {self._kind!r} gave no addresses; see its "
                    "configuration",
                )
        except CniError:
            self._forget()
            raise
        return lease

    def delete(self) -> None:
        """Raises what the delegate answers."""
        self._call("DEL")

    def check(self, ips: Sequence[str]) -> None:
        """Raises what the delegate answers."""
        del ips
        self._call("CHECK")

    def collect(self, valid: frozenset[tuple[str, str]] | None) -> None:
        """The delegate gets the runtime's own list and judges by itself."""
        del valid
        self._call("GC")

    def status(self) -> None:
        """Asked only where the version has the verb."""
        if at_least(self._words.version, "1.1.0"):
            self._call("STATUS")

    def _forget(self) -> None:
        try:
            self._call("DEL", seconds=_LAST_WORD)
        except CniError:
            pass  # the first error is the one to tell

    def _call(self, verb: str, *, seconds: float = 0.0) -> object:
        executable = delegate.find(self._kind, self._words.path)
        try:
            return delegate.call(executable, verb, self._environ(verb), self._words.stdin, seconds=seconds)
        except CniError as refusal:
            if refusal.code != INCOMPATIBLE_VERSION:
                raise
            return self._in_its_version(executable, verb, refusal)

    def _environ(self, verb: str) -> Mapping[str, str]:
        """What a plugin could take offence at in CNI_ARGS must not keep an address from being given back."""
        environ = self._words.environ
        if verb not in _GIVING_BACK or not environ.get("CNI_ARGS"):
            return environ
        return {**environ, "CNI_ARGS": passed_over(environ["CNI_ARGS"])}

    def _in_its_version(self, executable: str, verb: str, refusal: CniError) -> object:
        """Asked in the newest version that it knows, where that is older than the configuration's; we understand all.

        A verb that it cannot know is not asked for.
        """
        known = delegate.versions(executable, self._words.environ)
        older = [each for each in VERSIONS if each in known and not at_least(each, self._words.version)]
        if not older:
            raise refusal
        version = older[-1]
        if not at_least(version, VERBS[verb].since):
            return {}
        told = {key: each for key, each in reading.decode(self._words.stdin).items()
                if key.lower() not in ("cniversion", "prevresult")}
        stdin = msgspec.json.encode({**told, "cniVersion": version, **self._previous(verb, version)})
        return delegate.call(executable, verb, self._environ(verb), stdin)

    def _previous(self, verb: str, version: str) -> Mapping[str, object]:
        """The result of the ADD in this version; what is none keeps no address from being given back."""
        previous = self._words.previous
        if previous is None:
            return {}
        try:
            return {"prevResult": msgspec.Raw(render(parse_result(previous, "prevResult"), version))}
        except CniError:
            if verb not in _GIVING_BACK:
                raise
            return {}


def leases(ask: Ask) -> DelegatedLeases:
    """What the executable behind the type will say."""
    return DelegatedLeases(ask)
