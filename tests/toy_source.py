"""What is told by a source that nobody needs: a file with a line a node, which is looked at all the time."""

from __future__ import annotations


def lines(*numbers: int, link: str = "192.0.2") -> str:
    """What the file says of these nodes: n1 is 192.0.2.1, with 10.244.1.0/24."""
    return "".join(f"n{each} {link}.{each} 10.244.{each}.0/24\n" for each in numbers)
