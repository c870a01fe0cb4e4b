"""What an agent found out about checksums that are left to the NIC, kept for the engine too: `<run>/offload`.

It holds for this boot: another kernel, or another machine under the same disk, is tried anew.
"""

from __future__ import annotations

import msgspec

from cni_plugin import decoding
from cni_plugin.kernel.host import files
from cni_plugin.store.records import Records


class _Verdict(msgspec.Struct, frozen=True):
    boot: str
    broken: str


def broken(records: Records) -> str:
    """How it showed in this boot that the NIC gets checksums wrong, "" as long as it did not."""
    try:
        found = decoding.decode_as(_Verdict, records.disk.note(f"{records.run_dir}/offload") or b"")
    except (msgspec.MsgspecError, OSError):
        return ""
    return found.broken if found.boot == files.boot_id() else ""


def note(records: Records, why: str) -> None:
    """It showed. Raises OSError."""
    records.disk.write(f"{records.run_dir}/offload", msgspec.json.encode(_Verdict(files.boot_id(), why)))
