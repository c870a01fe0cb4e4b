"""A foreign IPAM: another executable, called with the same environment and the same configuration."""

from __future__ import annotations

from collections.abc import Sequence

from cni_plugin import delegate
from cni_plugin.errors import DELEGATE_FAILED, CniError
from cni_plugin.spec import Result, at_least, parse_result
from cni_plugin.verbs.context import Context, MustWait
from cni_plugin.wish import wish

_LAST_WORD = 5.0
"""Seconds for the DEL after an ADD that failed: one that is stuck has had its time."""


class DelegatedLeases:
    """The IPAM executable of one request."""

    before_link = False

    def __init__(self, context: Context) -> None:
        self._context = context
        self._kind = context.conf.ipam.type

    def add(self) -> Result:
        """When it fails, or gives nothing, it is told DEL before the error goes on (specification, section 4)."""
        wish(self._context.conf, self._context.request.args)
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
        if at_least(self._context.version, "1.1.0"):
            self._call("STATUS")

    def _forget(self) -> None:
        try:
            self._call("DEL", seconds=_LAST_WORD)
        except CniError:
            pass  # the first error is the one to tell

    def _call(self, verb: str, *, seconds: float = 0.0) -> object:
        context = self._context
        if not context.waits:
            raise MustWait
        executable = delegate.find(self._kind, context.request.path)
        return delegate.call(executable, verb, context.environ, context.stdin, seconds=seconds)
