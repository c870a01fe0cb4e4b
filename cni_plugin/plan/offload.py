"""Whether the checksums of what goes through a tunnel may be left to its device, and so to the NIC.

That lets the kernel cut a stream of 64 kB into packets once, below the tunnel, which is several times as fast. Before
Linux 5.8 masquerading `random-fully` and a tunnel in UDP together made wrong outer checksums (kubernetes#88986: a
connection takes 63 s). The mend went into stable kernels as well (4.14.181, 4.19.123, 5.4.41), and distributions took
it over under numbers of their own, which no rule can know: there an operator's `txChecksum` says it. What is broken
still are NICs, of which no kernel's number tells: VMware's drop all of it but ICMP (calico#4727, calico#9433). So
agents try.
"""

from __future__ import annotations

import re

MENDED = (5, 8)
_NUMBERS = re.compile(r"(\d+)\.(\d+)")


def trusted(release: str) -> bool:
    """Whether a kernel of this release (uname -r) is one that has the mend for certain."""
    found = _NUMBERS.match(release)
    return found is not None and (int(found[1]), int(found[2])) >= MENDED
