"""Addresses for an attachment, from whichever IPAM the configuration names.

Our own host-local runs in this process; any other type is another executable, called as section 4 of the
specification says; without a type there are none, and the network is a plain layer 2 one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cni_plugin.conf.plugin import HOST_LOCAL
from cni_plugin.errors import NOT_AVAILABLE, CniError
from cni_plugin.kernel.host import files
from cni_plugin.spec import Result
from cni_plugin.verbs.context import Context


class Leases(Protocol):
    """An IPAM as the verbs use it. What goes wrong is raised as CniError or as the IPAM's own errors."""

    before_link: bool
    """Whether addresses can be had before the pod has an interface; DHCP needs one to ask through."""

    def add(self) -> Result:
        """Lease addresses for the request's attachment; all or nothing."""

    def preview(self) -> Result:
        """What `add` would give, if nobody else came first; nothing is taken, and nobody who would take it is asked."""

    def delete(self) -> None:
        """Give back what the request's attachment holds; nothing is success."""

    def check(self, ips: Sequence[str]) -> None:
        """Raises CniError when these addresses are not the attachment's."""

    def collect(self, valid: frozenset[tuple[str, str]] | None) -> None:
        """Give back what attachments hold that are not among these (container, interface); None: it is not known.

        An interface of "" stands for all that the container has.

        A lease alone proves nothing then: another main plugin may have delegated to the IPAM.
        """

    def status(self) -> None:
        """Raises CniError 50 when ADD could not be served."""


def leases(context: Context, pod_cidrs: Sequence[str] = ()) -> Leases:
    """The IPAM of this configuration; `pod_cidrs` are this node's subnets, used when no ranges are given."""
    found = _leases(context, pod_cidrs)
    return Previewed(found) if context.preview else found


def _leases(context: Context, pod_cidrs: Sequence[str]) -> Leases:
    kind = context.conf.ipam.type
    if kind == HOST_LOCAL:
        from cni_plugin.verbs.leases_local import LocalLeases

        return LocalLeases(context, pod_cidrs)
    if kind:
        from cni_plugin.verbs.leases_delegated import DelegatedLeases

        return DelegatedLeases(context)
    return NoLeases()


def refuse_unwritable(what: str, folder: str) -> None:
    """Raises CniError 50 where ADD could write no file."""
    error = files.obstacle(folder)
    if error is not None:
        raise CniError(NOT_AVAILABLE, f"{what} {folder!r} cannot be written: {error.strerror}: {files.cure(error)}")


class NoLeases:
    """A network without layer 3: frames are switched, nothing is routed."""

    before_link = True

    def add(self) -> Result:
        """Nothing."""
        return Result()

    def preview(self) -> Result:
        """Nothing."""
        return Result()

    def delete(self) -> None:
        """Nothing to give back."""

    def check(self, ips: Sequence[str]) -> None:
        """Nothing is claimed."""

    def collect(self, valid: frozenset[tuple[str, str]] | None) -> None:
        """Nothing is held."""

    def status(self) -> None:
        """Nothing can run out."""


class Previewed(NoLeases):
    """What another IPAM would give, and nothing is taken or given back."""

    def __init__(self, ipam: Leases) -> None:
        self.before_link = ipam.before_link
        self._ipam = ipam

    def add(self) -> Result:
        """Raises what the other one raises."""
        return self._ipam.preview()
