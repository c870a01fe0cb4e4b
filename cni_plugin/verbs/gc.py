"""GC: take away every attachment of the network that the runtime does not list; go on past errors, report all.

Attachments are known by their records, by the mark on their veth, and by their leases: an ADD that was killed left
at least one of these. Without a list (`cnitool gc` sends none) only what is provably dead goes: its veth is
gone, which dies with the pod's namespace, and nothing stands where its namespace was.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from cni_plugin import plugins
from cni_plugin.attachment import Attachment
from cni_plugin.conf import reading
from cni_plugin.errors import GC_INCOMPLETE, CniError, NoAnswer
from cni_plugin.ipams.contract import Ask, Words, find
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.errors import KernelError, NetnsError
from cni_plugin.node.chained import bury
from cni_plugin.store.records import Record, Records
from cni_plugin.verbs.context import Context
from cni_plugin.verbs.delete import forget, release, unplugging
from cni_plugin.verbs.ensure import sweep_records, wired
from cni_plugin.verbs.leases import leases
from cni_plugin.verbs.teardown import Takedown, together
from cni_plugin.wirings.contract import Wiring, stands

PLUGIN_PATH = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")
"""Where a delegated IPAM is looked for when no runtime says it: containerd's, Debian's and podman's places."""


def collect(context: Context) -> bytes:
    """Raises CniError 103 that tells everything that could not be taken away."""
    valid = listed(context)
    records = {each.attachment: each for each in context.records.all(context.conf.name)}
    named = {*records, *(Attachment(context.conf.name, *each) for each in valid or ())}
    failures: dict[Attachment | str, str] = {}
    failures.update(context.conf.incomplete)
    netns = {who: each.netns for who, each in records.items()}
    lives = living(context) if valid is None else frozenset()
    stale = [
        each
        for each in sorted({*records, *_marked(context, named)})
        if not is_valid(context.kernel, each, netns.get(each), valid, lives)
    ]
    silent: dict[str, NoAnswer] = {}
    takedowns = [take_away(_of_network(context, each, records.get(each)), silent) for each in stale]
    outcomes = zip(stale, together(lambda: context.kernel, takedowns), strict=True)
    failures.update({each: str(error) for each, error in outcomes if error is not None})
    # what could not be unplugged keeps its address: nobody else may have it while the old wire can send from it
    stuck = {(each.container, each.ifname) for each in failures if isinstance(each, Attachment)}
    collecting = partial(leases(context).collect, None if valid is None else valid | stuck)
    _try(failures, "ipam", partial(_unless_silent, context.conf.ipam.type, silent, collecting))
    _try(failures, "records", partial(sweep_records, context.kernel, context.records, context.conf.name))
    if failures:
        raise unfinished(
            {" ".join(what) if isinstance(what, Attachment) else what: why for what, why in failures.items()}
        )
    return b""


def unfinished(failures: Mapping[str, str]) -> CniError:
    """The error that tells why something could not be collected; all else is."""
    told = [f"{what}: {why}" for what, why in failures.items()]
    return CniError(GC_INCOMPLETE, f"not all could be collected: {told[0]}", "\n".join(told))


def is_dead(
    kernel: Kernel, attachment: Attachment, netns: str, living: Collection[tuple[str, str]] = frozenset()
) -> bool:
    """Both ends of a pair die together, so a veth that is gone and a namespace that is gone are proof.

    A path at which another container lives by now is gone as well: `living` are paths and containers whose wires stand.
    """
    if stands(kernel, attachment):
        return False
    if any(path == netns and container != attachment.container for path, container in living):
        return True
    try:
        kernel.enter(netns)
    except NetnsError:
        return True
    return False


def collect_dead(kernel: Kernel, records: Records, dead: Sequence[Record]) -> list[str]:
    """Take away attachments of any network, which the caller knows to be dead, all together.

    Why each could not be taken away, "" for those that are gone.
    """
    silent: dict[str, NoAnswer] = {}
    takedowns = [_take_dead(kernel, records, each, silent) for each in dead]
    problems = ["" if each is None else str(each) for each in together(lambda: kernel, takedowns)]
    for at, each in enumerate(dead):
        try:
            bury(kernel, records.run_dir, each.attachment)
        except (KernelError, OSError) as error:
            problems[at] = problems[at] or str(error)
    for network in {each.network for each in dead}:
        sweep_records(kernel, records, network)
    return problems


def listed(context: Context) -> frozenset[tuple[str, str]] | None:
    """The containers and interfaces that the runtime keeps, "" for all of one's; None where it gives no list."""
    known = context.conf.valid
    return None if known is None else frozenset((each.container_id, each.ifname) for each in known)


def living(context: Context) -> frozenset[tuple[str, str]]:
    """Where containers of any network live, by the records of those whose wires stand."""
    wires = {each.name for each in context.kernel.own_links()}
    return frozenset(
        (each.netns, each.container) for each in context.records.all() if each.attachment.host_dev in wires
    )


def is_valid(
    kernel: Kernel,
    attachment: Attachment,
    netns: str | None,
    valid: frozenset[tuple[str, str]] | None,
    lives: frozenset[tuple[str, str]],
) -> bool:
    """Whether an attachment is to be kept, by the list or, without one, by what lives. `netns`: None without a record.
    """
    if attachment.sealed and any(not ifname for _, ifname in valid or ()):
        return True  # it may be one of a container that is to be kept whole
    if valid is not None:
        return not valid.isdisjoint({(attachment.container, attachment.ifname), (attachment.container, "")})
    if netns is None:
        return True  # a lease alone proves nothing: another plugin may have delegated to us
    return not is_dead(kernel, attachment, netns, lives)


def _marked(context: Context, named: Collection[Attachment]) -> list[Attachment]:
    """The attachments of this network whose veth stands, recorded or not; by their names where these are known."""
    known = {each.digest: each for each in named}
    return [known.get(each.digest, each) for each in wired(context.kernel, context.conf.name)]


class Stale(NamedTuple):
    """An attachment that the runtime forgot: how it was wired, and what gives its addresses back."""

    kernel: Kernel
    records: Records
    attachment: Attachment
    record: Record | None
    wiring: Wiring
    release: Callable[[], None]


def take_away(stale: Stale, silent: dict[str, NoAnswer]) -> Takedown[None]:
    """Take it down. Without a record its leases are the caller's to collect.

    `silent`: the IPAM plugins that were waited for in vain, kept by those who are taken down together.
    """
    yield unplugging(stale.wiring, stale.attachment, stale.record)
    if stale.record is not None:
        _unless_silent(stale.record.ipam, silent, stale.release)
        forget(stale.kernel, stale.records, stale.attachment)


def _take_dead(kernel: Kernel, records: Records, record: Record, silent: dict[str, NoAnswer]) -> Takedown[None]:
    """What is wrong with the configuration on one's record keeps no other from being taken down."""
    yield from take_away(_of_record(kernel, records, record), silent)


def _of_network(context: Context, attachment: Attachment, record: Record | None) -> Stale:
    """As the request for its network has it."""
    given_back = partial(release, context, record)
    return Stale(context.kernel, context.records, attachment, record, context.wiring, given_back)


def _unless_silent(ipam: str, silent: dict[str, NoAnswer], step: Callable[[], None]) -> None:
    """What asks this IPAM, as long as it answers: each time in vain would add to what the request takes."""
    if ipam in silent:
        raise silent[ipam]
    try:
        step()
    except NoAnswer as error:
        silent[error.who] = error
        raise


def _of_record(kernel: Kernel, records: Records, record: Record) -> Stale:
    """As its own ADD had it: there is no request."""
    raw = reading.decode(bytes(record.conf))
    try:
        plugin = plugins.parse(raw)
    except CniError:
        plugin = plugins.parse_name(raw)
    environ = {
        "CNI_COMMAND": "DEL", "CNI_CONTAINERID": record.container, "CNI_IFNAME": record.ifname,
        "CNI_NETNS": record.netns, "CNI_PATH": ":".join(PLUGIN_PATH), "TULLE_RUN_DIR": records.run_dir,
    }
    words = Words(environ, bytes(record.conf), reading.version_of(raw), PLUGIN_PATH, plugin.conf.prev_result)
    ask = Ask(record.attachment, plugins.bare_ipam(record.ipam, record.data_dir), partial(stands, kernel), words=words)
    assert plugin.wiring is not None
    given_back = find(record.ipam).leases(ask).delete
    return Stale(kernel, records, record.attachment, record, plugin.wiring, given_back)


def _try(failures: dict[Attachment | str, str], what: Attachment | str, step: Callable[[], None]) -> None:
    try:
        step()
    except Exception as error:
        failures[what] = str(error)
