"""What may have changed on a node, as bits: the words that who hears the kernel and who puts things right share."""

from __future__ import annotations

from typing import TypeAlias

Changed: TypeAlias = int
LINKS, ADDRESSES, ROUTES, NEIGHBOURS, RULES, KNOBS, UPLINKS, WAYS = 1, 2, 4, 8, 16, 32, 64, 128
"""UPLINKS: links that are not ours to change; WAYS: others' routes that lead to peers."""
EVERYTHING: Changed = 255
