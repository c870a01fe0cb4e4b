"""The addresses of a node as the operator sees them: who has which, and where leases and attachments disagree."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from cni_plugin.attachment import Attachment
from cni_plugin.conf.plugin import check_name
from cni_plugin.ctl.look.status import Row, alive
from cni_plugin.errors import ADDRESS_UNAVAILABLE, INVALID_CONFIG, CniError
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.host import files
from cni_plugin.store.records import Record, Records
from ipam.allocator import Allocator
from ipam.store import Owner


def leases(data_dir: str, network: str, records: Records) -> list[Row]:
    """Every address in use; `flaw` says why one cannot be understood."""
    rows: list[Row] = []
    for folder, name in _stores(data_dir, network, records):
        store = _open(folder, name)
        rows += [_row(name, str(ip), owner.container, owner.ifname, flaw="") for ip, owner in store.leases()]
        rows += [_row(name, str(each.address), "", "", flaw=each.flaw) for each in store.damaged()]
    return rows


def check(kernel: Kernel, data_dir: str, network: str, records: Records) -> list[Row]:
    """The leases that no attachment has, the damaged ones, the dead attachments' and the attachments without one."""
    return [
        row
        for folder, name in _stores(data_dir, network, records)
        for row in _check_store(kernel, folder, name, records)
    ]


def release(data_dir: str, network: str, address: str, records: Records, *, force: bool) -> str:
    """Take one address back; a sentence that says whose it was. Raises CniError for one that is in use."""
    check_name(network)
    try:
        ip = ip_address(address)
    except ValueError:
        raise CniError(INVALID_CONFIG, f"invalid address {address!r}: write one IPv4 or IPv6 address") from None
    user = next((each for each in records.all(network) if address in _addresses(each)), None)
    if user is not None and not force:
        raise CniError(
            ADDRESS_UNAVAILABLE,
            f"{address} is the attachment {user.container} {user.ifname}'s: let the runtime delete it, or --force",
        )
    folder = user.data_dir if user is not None else data_dir
    had = _open(folder, network).release_address(ip)
    return f"{address} is free" + (f"; it was {had.container} {had.ifname}'s" if had else "; nobody had it")


def held(record: Record) -> list[str]:
    """The addresses that an attachment's leases give it; [] where another IPAM's leases are not ours to read."""
    if not record.data_dir:
        return []
    found = _open(record.data_dir, record.network).find(Owner(record.container, record.ifname))
    return [str(each) for each in found]


def _open(folder: str, network: str) -> Allocator:
    return Allocator(folder, network, (), boot_id=files.boot_id(), is_alive=lambda _: True)


def _stores(data_dir: str, network: str, records: Records) -> list[tuple[str, str]]:
    """(dataDir, network) of every store that attachments use, and those in the folder named."""
    used = {(each.data_dir, each.network) for each in records.all() if each.data_dir}
    found = used | {(data_dir, name) for name in files.names(data_dir)}
    return sorted(each for each in found if not network or each[1] == network)


def _check_store(kernel: Kernel, folder: str, network: str, records: Records) -> Iterator[Row]:
    """What is missing here is so of attachments that lease here: others of the network may do elsewhere."""
    store = _open(folder, network)
    known = {each.attachment: each for each in records.all(network)}
    held: dict[Attachment, set[str]] = {}
    for ip, owner in store.leases():
        attachment = Attachment(network, owner.container, owner.ifname)
        held.setdefault(attachment, set()).add(str(ip))
        problem = _problem(kernel, known.get(attachment))
        if problem:
            yield _row(network, str(ip), owner.container, owner.ifname, problem=problem)
    for each in store.damaged():
        yield _row(network, str(each.address), "", "", problem=f"damaged: {each.flaw}")
    for attachment, record in known.items():
        for address in _addresses(record) - held.get(attachment, set()):
            if record.data_dir == folder:
                yield _row(network, address, record.container, record.ifname, problem="in use without a lease")


def _problem(kernel: Kernel, record: Record | None) -> str:
    if record is None:
        return "leaked: no attachment has it"
    return "leaked: its attachment is dead" if alive(kernel, record) == "dead" else ""


def _addresses(record: Record) -> set[str]:
    return {each.split("/")[0] for each in record.ips}


def _row(network: str, address: str, container: str, ifname: str, **more: str) -> Row:
    return {"network": network, "address": address, "container": container, "ifname": ifname, **more}
