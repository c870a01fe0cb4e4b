"""When records and address folders were written, by their own word: in this boot, and by a clock that goes right."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import msgspec

from cni_plugin import decoding
from cni_plugin.ctl.doctor.contract import HINT, SURROUNDINGS, WARNING, Finding, some
from cni_plugin.ctl.eyes import Eyes
from cni_plugin.kernel.host import files

LAYER = SURROUNDINGS


class Stamp(msgspec.Struct, frozen=True):
    """When, by its own word, a record or an IPAM folder was written: in which boot, and at what time (0: not told)."""

    where: str
    boot: str
    at: float = 0.0


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """This boot, the time of day, and what was written when."""

    boot: str = ""
    now: float = 0.0
    stamps: tuple[Stamp, ...] = ()


def gather(eyes: Eyes) -> Facts:
    """The records and the folders, of whatever boot."""
    stamps = eyes.notes.many("boot stamps", lambda: _stamps(eyes))
    return Facts(boot=files.boot_id(), now=time.time(), stamps=stamps)


def other_boot(facts: Facts) -> Iterator[Finding]:
    """What is on record was written before the machine was started again."""
    old = [each for each in facts.stamps if facts.boot and each.boot and each.boot != facts.boot]
    if old:
        yield Finding(
            "other-boot", HINT, "boot of " + some([each.where for each in old]), old[0].boot,
            f"{len(old)} records or address folders are stamped with another boot than this one ({facts.boot}): they "
            "are void and their addresses are free again with the next ADD",
            "nothing; a GC of the runtime takes them away",
        )


def clock(facts: Facts) -> Iterator[Finding]:
    """The wall clock is earlier than what was written in this very boot."""
    ahead = [each for each in facts.stamps if each.boot == facts.boot and facts.now and each.at > facts.now + 1]
    if ahead:
        yield Finding(
            "clock", WARNING, "written " + some([each.where for each in ahead]),
            f"{max(each.at for each in ahead) - facts.now:.0f} s in the future",
            "the clock was set back after these pods were started: times in logs do not fit together, and the grace "
            "time of what is cleaned up begins anew",
            "timedatectl status, chronyc tracking: see that the clock is set before pods are started",
        )


class _Written(msgspec.Struct):
    """What a record of any boot and release tells of its time."""

    boot: str = ""
    created: float = 0.0


def _stamps(eyes: Eyes) -> Iterator[Stamp]:
    base = f"{eyes.records.run_dir}/attachments"
    for network in files.names(base):
        for name in files.names(f"{base}/{network}"):
            try:
                written = decoding.decode_as(_Written, files.read(f"{base}/{network}/{name}") or b"{}")
            except msgspec.DecodeError:
                continue  # the records tell of it where they are read
            yield Stamp(f"record {network}/{name}", written.boot, written.created)
    for folder in eyes.folders:
        for network in files.names(folder):
            link = f"{folder}/{network}/.tulle/boot"
            if os.path.islink(link):
                yield Stamp(f"addresses {folder}/{network}", os.readlink(link))


FINDINGS = {other_boot: ("other-boot",), clock: ("clock",)}
