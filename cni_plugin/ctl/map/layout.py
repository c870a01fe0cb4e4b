"""Where things go on a map of a cluster: a hoop with the nodes around it, and beside it this node with its pods.

Up to ten nodes have words beside them, up to sixty along the radius; beyond that they are dots in sectors of a ring,
and a sector has the names of its first and last. Pure, and the same for the same names. Promises: no two texts, dots or
frames overlap, at any number of nodes and with names of any length (they are cut), and all lies on the sheet; how wide
a text is is estimated on the wide side, for nobody knows the reader's fonts. Lengths in units of the SVG.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import cos, pi, radians, sin
from typing import NamedTuple

from cni_plugin.ctl.map.picture import MOST_NAMED, Drawing, PodLabel, Spot

WIDTH, HEIGHT = 1600, 1200
CENTRE = 600.0, 660.0
RIM = 490.0
"""Nothing of the hoop is farther from its centre."""
MOST_BESIDE = 10
CARD_LEFT, CARD_RIGHT, CARD_TOP, CARD_BOTTOM = 1150.0, 1536.0, 170.0, 930.0
LEGEND_TOP = 965.0
_WIDE = 0.68
"""Of the size: how wide a letter is over a whole name, in DejaVu Sans Bold, the widest that stands in for others."""
_ROOM = 195.0
"""For a line of words beside a node."""
_NAME = 21.0
"""Size of the names beside nodes."""
_MOST_SECTORS = 24
_POD, _BEAD = 44.0, 14.0
_HEAD = 158.0


class Text(NamedTuple):
    """A line of text. `role` is its style; `anchor` start, middle or end; `turn` in degrees around (x, y)."""

    text: str
    x: float
    y: float
    size: float
    role: str
    anchor: str = "start"
    turn: float = 0.0


class Dot(NamedTuple):
    """A node, or a pod's bead: where, how large, and whose it is (its position among the nodes, or -1)."""

    x: float
    y: float
    radius: float
    node: int = -1


class Sector(NamedTuple):
    """Nodes that are drawn together; (x, y) is where their line ends."""

    nodes: tuple[int, ...]
    x: float
    y: float


class Box(NamedTuple):
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float


class Card(NamedTuple):
    """This node: its frame, its words, and its pods as beads on the thread from `top` to `bottom`."""

    frame: Box
    texts: tuple[Text, ...]
    beads: tuple[Dot, ...]
    top: float
    bottom: float


class _Words(NamedTuple):
    """What is said beside a node."""

    name: str
    subnet: str
    address: str
    trip: str

    @classmethod
    def of(cls, node: Spot) -> _Words:
        """Of a node, the first of each."""
        return cls(node.name, next(iter(node.subnets), "no subnet"), next(iter(node.addresses), ""), node.trip)

    def lines(self) -> list[tuple[str, str]]:
        """With their roles, the most important first."""
        return list(zip(self, ("name", "mono", "mono", "note"), strict=True))


class Sheet(NamedTuple):
    """All of it. `anchors` are where a node's lines end, by position; with `sectors` a sector's."""

    radius: float
    dots: tuple[Dot, ...]
    texts: tuple[Text, ...]
    anchors: tuple[tuple[float, float], ...]
    sectors: tuple[Sector, ...]
    card: Card


def layout(picture: Drawing) -> Sheet:
    """Where everything goes; the first node is this one, on the right, where the card is."""
    count = len(picture.nodes)
    card = _card(picture.nodes[0], picture.pods)
    if count > MOST_NAMED:
        return _in_sectors(picture.nodes, card)
    radius = _radius(picture.nodes)
    spots = [_around(radius, _angle(position, count)) for position in range(count)]
    small = 9.0 if count <= MOST_BESIDE else max(4.0, min(8.0, 190.0 / count))
    dots = [Dot(*spot, 13.0 if position == 0 else small, position) for position, spot in enumerate(spots)]
    label = _beside if count <= MOST_BESIDE else _along
    names = shortened([each.name for each in picture.nodes], _ROOM, _NAME if count <= MOST_BESIDE else 15.0)
    nodes = [each._replace(name=name) for each, name in zip(map(_Words.of, picture.nodes), names, strict=True)]
    texts = [text for position in range(1, count) for text in label(nodes, position, radius)]
    return Sheet(radius, tuple(dots), tuple(texts), tuple(spots), (), card)


def fit(text: str, width: float, size: float) -> str:
    """The text, with its middle left out where it is too wide."""
    most = max(int(width / (size * _WIDE)), 3)
    if len(text) <= most:
        return text
    tail = (most - 1) // 2
    return f"{text[: most - 1 - tail]}…{text[len(text) - tail :]}"


def shortened(names: Sequence[str], room: float, size: float) -> list[str]:
    """Names of which one at least is too wide, without what all of them begin and end with, at a mark between words."""
    if len(names) < 2 or max(map(len, names)) * size * _WIDE <= room:
        return list(names)
    head, tail = _shared(names), _shared([each[::-1] for each in names])
    if head + tail >= min(map(len, names)):
        return list(names)
    return [("…" if head else "") + each[head : len(each) - tail] for each in names]


def _shared(names: Sequence[str]) -> int:
    """How many letters all begin with, up to the last that is neither letter nor digit."""
    first, last = min(names), max(names)  # what these two share all share
    common = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), 0)
    return next((end for end in range(common, 0, -1) if not first[end - 1].isalnum()), 0)


def width(text: Text) -> float:
    """How wide a text is at most."""
    return len(text.text) * text.size * _WIDE


def corners(text: Text) -> list[tuple[float, float]]:
    """Of the rectangle that a text needs, turned as it is."""
    start = {"start": 0.0, "middle": -0.5, "end": -1.0}[text.anchor] * width(text)
    angle = radians(text.turn)
    points = [(x, y) for y in (-0.8 * text.size, 0.25 * text.size) for x in (start, start + width(text))]
    points = [points[0], points[1], points[3], points[2]]
    return [(text.x + x * cos(angle) - y * sin(angle), text.y + x * sin(angle) + y * cos(angle)) for x, y in points]


def _angle(position: int, count: int) -> float:
    return 2 * pi * position / count


def _around(radius: float, angle: float) -> tuple[float, float]:
    """Angles grow downwards from the right, as the sheet's y does."""
    return CENTRE[0] + radius * cos(angle), CENTRE[1] + radius * sin(angle)


def _radius(nodes: Sequence[Spot]) -> float:
    """As large as the words around leave room for."""
    if len(nodes) <= MOST_BESIDE:
        return 330.0
    names = shortened([each.name for each in nodes], _ROOM, 15.0)
    words = [(name, node.trip, *node.subnets[:1]) for node, name in zip(nodes, names, strict=True)]
    longest = max(len(text) for each in words for text in each)
    return RIM - 16 - min(max(longest * 15.0 * _WIDE, 120.0), _ROOM)


def _beside(nodes: Sequence[_Words], position: int, radius: float) -> Iterator[Text]:
    """Words beside the dot, on its outer side."""
    angle = _angle(position, len(nodes))
    x, y = _around(radius + 22, angle)
    anchor = "middle" if abs(cos(angle)) < 0.1 else "start" if cos(angle) > 0 else "end"
    sizes = (_NAME, 15.0, 15.0, 15.0)
    height = sum(sizes) * 1.25
    top = y - height / 2 + sin(angle) * height / 2
    for (text, role), size in zip(nodes[position].lines(), sizes, strict=True):
        top += size * 1.25
        yield Text(fit(text, _ROOM, size), x, top - size * 0.3, size, role, anchor)


def _along(nodes: Sequence[_Words], position: int, radius: float) -> Iterator[Text]:
    """Words along the radius, as many lines as there is room for between the neighbours."""
    angle = _angle(position, len(nodes))
    inner = radius + 16
    step = 2 * pi * inner / len(nodes)
    size = min(15.0, step / 2.5)
    name, subnet, _, trip = nodes[position].lines()
    words = [name, subnet, trip] if step >= size * 3.9 else [name, subnet]
    yield from _radial([(fit(text, RIM - inner, size), role) for text, role in words], angle, inner, size)


def _radial(words: Sequence[tuple[str, str]], angle: float, inner: float, size: float) -> Iterator[Text]:
    """Lines beside each other along one radius, readable from below on either side."""
    turned = cos(angle) < -1e-9
    for number, (text, role) in enumerate(words):
        aside = (number - (len(words) - 1) / 2) * size * 1.15 + size * 0.28
        x, y = _around(inner, angle)
        direction = angle + pi if turned else angle
        x, y = x - sin(direction) * aside, y + cos(direction) * aside
        yield Text(text, x, y, size, role, "end" if turned else "start", direction * 180 / pi % 360)


def _in_sectors(nodes: Sequence[Spot], card: Card) -> Sheet:
    """All but this node in sectors of a ring, which leaves room on the right for this one."""
    inner, outer = 225.0, 352.0
    others = range(1, len(nodes))
    count = min(_MOST_SECTORS, max(6, len(others) // 8))
    gap = radians(16)
    span = (2 * pi - gap) / count
    short = shortened([each.name for each in nodes], RIM - outer - 14, 13.0)
    dots, texts, sectors = [Dot(*_around(inner - 8, 0.0), 13.0, 0)], list[Text](), list[Sector]()
    for number in range(count):
        members = others[number * len(others) // count : (number + 1) * len(others) // count]
        begin = gap / 2 + number * span
        cells = _cells(len(members), -(-len(others) // count), (inner, outer), (begin, span))
        dots += [dot._replace(node=node) for node, dot in zip(members, cells, strict=True)]
        names = [(short[members[0]], "name"), (f"to {short[members[-1]]}", "note")]
        words = [(fit(text, RIM - outer - 14, 13.0), role) for text, role in names]
        texts += _radial(words, begin + span / 2, outer + 14, 13.0)
        sectors.append(Sector(tuple(members), *_around(inner - 8, begin + span / 2)))
    return Sheet(inner - 8, tuple(dots), tuple(texts), (), tuple(sectors), card)


def _cells(
    count: int, most: int, radii: tuple[float, float], angles: tuple[float, float]
) -> Iterator[Dot]:
    """So many dots in a sector, as large as the most that a sector has leave room for, ring by ring from within."""
    (inner, outer), (begin, span) = radii, angles
    length = inner * span - 9
    side, columns = next(
        (side, columns)
        for side in (each / 2 for each in range(52, 1, -1))
        if (columns := int(length / side)) * int((outer - inner) / side) >= most
    )
    rows = -(-most // columns)
    step = length / inner / columns
    start = begin + (span - step * columns) / 2
    for number in range(count):
        row, column = divmod(number, columns)
        radius = inner + (outer - inner - rows * side) / 2 + (row + 0.5) * side
        in_row = min(columns, count - row * columns)
        angle = start + step * (column + 0.5 + (columns - in_row) / 2)
        yield Dot(*_around(radius, angle), side * 0.38)


def _card(me: Spot, pods: Sequence[PodLabel]) -> Card:
    """This node's card, as high as its pods need; those that find no room with names are beads alone."""
    room = CARD_BOTTOM - CARD_TOP - _HEAD - 30
    named = len(pods) if len(pods) * _POD <= room else int((room - 130) / _POD)
    columns = int((CARD_RIGHT - CARD_LEFT - 60) / _BEAD)
    rest = len(pods) - named
    rows = min(-(-rest // columns), int(110 / _BEAD))
    height = _HEAD + named * _POD + (40 + rows * _BEAD if rest else 0) + (24 if pods else 0)
    top = min(max(CENTRE[1] - height / 2, CARD_TOP), CARD_BOTTOM - height)
    frame = Box(CARD_LEFT, top, CARD_RIGHT - CARD_LEFT, height)
    texts = list(_heading(me, pods, frame))
    beads = []
    thread = top + _HEAD
    for number, pod in enumerate(pods[:named]):
        y = thread + number * _POD + 16
        beads.append(Dot(CARD_LEFT + 34, y, 7.0))
        texts.append(Text(fit(pod.name, 300, 15), CARD_LEFT + 56, y + 1, 15, "pod"))
        texts.append(Text(fit(", ".join(pod.ips) or "no address", 300, 12), CARD_LEFT + 56, y + 18, 12, "mono"))
    bottom = thread + named * _POD
    if rest:
        shown = min(rest, rows * columns)
        texts.append(Text(f"and {rest} more", CARD_LEFT + 56, bottom + 14, 14, "note"))
        for number in range(shown):
            row, column = divmod(number, columns)
            beads.append(Dot(CARD_LEFT + 34 + column * _BEAD, bottom + 36 + row * _BEAD, 4.4))
    return Card(frame, tuple(texts), tuple(beads), thread - 6, max((each.y for each in beads[:named]), default=thread))


def _heading(me: Spot, pods: Sequence[PodLabel], frame: Box) -> Iterator[Text]:
    x, room = frame.x + 26, frame.width - 52
    yield Text("THIS NODE", x, frame.y + 34, 12, "caps")
    size = max(16.0, min(26.0, room / (max(len(me.name), 1) * _WIDE)))
    yield Text(fit(me.name, room, size), x, frame.y + 64, size, "name")
    yield Text(fit(", ".join(me.addresses), room, 14), x, frame.y + 90, 14, "mono")
    yield Text(fit(", ".join(me.subnets) or "no subnet", room, 14), x, frame.y + 110, 14, "mono")
    bridges = ", ".join(dict.fromkeys(each.bridge for each in pods if each.bridge))
    told = f"{len(pods)} pod{'' if len(pods) == 1 else 's'}" + (f" on {bridges}" if bridges else "")
    yield Text(fit(told, room, 14), x, frame.y + 138, 14, "note")
