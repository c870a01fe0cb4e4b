"""Addresses as text, understood once: five steps of an ADD ask about the pod's, and parsing it takes 8 us each time.

    interface("10.22.0.5/24").network == ip_network("10.22.0.0/24")
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

_REMEMBERED = 256


@lru_cache(maxsize=_REMEMBERED)
def interface(text: str) -> IPv4Interface | IPv6Interface:
    """An address with its prefix length. Raises ValueError."""
    return ip_interface(text)
