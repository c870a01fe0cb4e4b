"""A map of a cluster as an SVG: one file, no script, nothing fetched, dark where the reader's system is.

    <title>, <desc>   the same in words, for who does not see it; each node's dot says its name and addresses
    .fast .middle .slow .lost .unknown   round trips;  dashes: past the tunnel;  thin: between other nodes

Pure text from pure values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape as escaped
from typing import NamedTuple

from cni_plugin.ctl.map.layout import (
    CARD_LEFT,
    CARD_RIGHT,
    CENTRE,
    HEIGHT,
    LEGEND_TOP,
    WIDTH,
    Card,
    Dot,
    Sheet,
    Text,
    fit,
    layout,
)
from cni_plugin.ctl.map.picture import FAST, LOST, MIDDLE, SLOW, UNKNOWN, Drawing, Line

_PACES = {
    FAST: ("#0f766e", "#2dd4bf", "answers in under 1 ms"),
    MIDDLE: ("#7c3aed", "#a78bfa", "in 1 to 10 ms"),
    SLOW: ("#c2700a", "#fbbf24", "in 10 ms or more"),
    LOST: ("#d4183d", "#fb7185", "no answer"),
    UNKNOWN: ("#a3a08f", "#5d6675", "not measured"),
}
_NO_XML = re.compile("[^\\t\\n\\x20-\\uD7FF\\uE000-\\uFFFD\\U00010000-\\U0010FFFF]")
_LIGHT = {"paper": "#faf8f3", "card": "#ffffff", "ink": "#1d2433", "mute": "#667085", "hoop": "#e2dccd"}
_DARK = {"paper": "#11151d", "card": "#191f2a", "ink": "#ece9e1", "mute": "#98a2b3", "hoop": "#2b3342"}
_SANS = "Inter,'Helvetica Neue','Segoe UI',Roboto,Arial,sans-serif"
_MONO = "'JetBrains Mono','SF Mono',Menlo,Consolas,'DejaVu Sans Mono',monospace"


class _Stroke(NamedTuple):
    """How a line looks beside its colour: width and opacity."""

    width: float
    opacity: float


def draw(picture: Drawing) -> str:
    """The SVG."""
    plan = layout(picture)
    parts = [
        *_opening(picture),
        f'<circle class="hoop" cx="{_n(CENTRE[0])}" cy="{_n(CENTRE[1])}" r="{_n(plan.radius)}"/>',
        f'<circle class="hoop" cx="{_n(CENTRE[0])}" cy="{_n(CENTRE[1])}" r="{_n(plan.radius + 7)}"/>',
        *(_bundles(picture, plan) if plan.sectors else _threads(picture, plan)),
        *_to_card(plan),
        *(_dot(each, picture) for each in plan.dots),
        *map(_text, plan.texts),
        *_card(plan.card),
        *_legend(picture),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _opening(picture: Drawing) -> Iterator[str]:
    yield (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
           'role="img" aria-labelledby="title desc">')
    yield f'<title id="title">{_safe(f"{picture.title}: map of a cluster")}</title>'
    yield f'<desc id="desc">{_safe(_in_words(picture))}</desc>'
    yield f"<style>{_style()}</style>"
    yield f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>'
    yield _text(Text(fit(picture.title, 1000, 44), 64, 84, 44, "name"))
    yield _text(Text(fit(picture.about, 1460, 18), 66, 118, 18, "note"))
    yield _text(Text(fit(picture.date, 400, 16), CARD_RIGHT, 76, 16, "note", "end"))


def _style() -> str:
    base = (
        f"text{{font-family:{_SANS}}}.name{{font-weight:650}}.mono{{font-family:{_MONO}}}"
        ".caps{letter-spacing:.08em;font-weight:600}.thread{fill:none}.direct{stroke-dasharray:9 5}"
        ".lost{stroke-dasharray:2 5;stroke-linecap:round}.hoop{fill:none;stroke-width:1.5}"
    )
    return f"{base}{_colours(_LIGHT, 0)}@media(prefers-color-scheme:dark){{{_colours(_DARK, 1)}}}"


def _colours(shades: dict[str, str], mode: int) -> str:
    paces = "".join(f".{name}{{stroke:{both[mode]}}}circle.{name}{{fill:{both[mode]};stroke-dasharray:none}}"
                    for name, both in _PACES.items())
    return (
        f"{paces}.paper{{fill:{shades['paper']}}}.card{{fill:{shades['card']};stroke:{shades['hoop']}}}"
        f".name,.pod{{fill:{shades['ink']}}}.mono,.note,.caps{{fill:{shades['mute']}}}.hoop{{stroke:{shades['hoop']}}}"
        f".wire{{stroke:{shades['ink']}}}.bead{{fill:{shades['ink']}}}circle.dot{{stroke:{shades['paper']}}}"
        f"circle.me{{fill:{shades['ink']};stroke:{shades['paper']}}}"
    )


def _threads(picture: Drawing, plan: Sheet) -> Iterator[str]:
    """All pairs: those between others first, so that this node's lie above, and what is lost above all."""
    few = len(picture.nodes) <= 12
    for each in sorted(picture.lines, key=lambda line: (line.pace == LOST, line.mine)):
        others = _Stroke(1.2, 0.55) if few else _Stroke(0.7, 0.28)
        stroke = _Stroke(2.2, 0.95) if each.mine or each.pace == LOST else others
        yield _curve((plan.anchors[each.one], plan.anchors[each.other]), _classes(each), stroke)


def _bundles(picture: Drawing, plan: Sheet) -> Iterator[str]:
    """From this node to each sector, as wide as it has nodes and as most of them are; between sectors a web."""
    ends = [(each.x, each.y) for each in plan.sectors]
    for position, one in enumerate(ends):
        for other in ends[position + 1 :]:
            yield _curve((one, other), UNKNOWN, _Stroke(0.6, 0.3))
    mine = {each.other: each for each in picture.lines if each.mine}
    most = max(len(each.nodes) for each in plan.sectors)
    me = plan.dots[0].x, plan.dots[0].y
    for sector, end in zip(plan.sectors, ends, strict=True):
        classes = [_classes(mine[each]) for each in sector.nodes]
        yield _curve((me, end), max(classes, key=classes.count), _Stroke(1.4 + 3.6 * len(sector.nodes) / most, 0.75))


def _classes(line: Line) -> str:
    return f"{line.pace}{' direct' if line.direct and line.pace != LOST else ''}"


def _curve(ends: tuple[tuple[float, float], tuple[float, float]], classes: str, stroke: _Stroke) -> str:
    """A chord that is drawn towards the middle, as a thread in lace."""
    (x1, y1), (x2, y2) = ends
    x, y = (centre + ((one + other) / 2 - centre) * 0.3 for centre, one, other in zip(CENTRE, *ends, strict=True))
    return (f'<path class="thread {classes}" stroke-width="{_n(stroke.width)}" stroke-opacity="{stroke.opacity:g}" '
            f'd="M{_n(x1)} {_n(y1)}Q{_n(x)} {_n(y)} {_n(x2)} {_n(y2)}"/>')


def _to_card(plan: Sheet) -> Iterator[str]:
    me = plan.dots[0]
    yield f'<path class="wire" stroke-width="2" d="M{_n(me.x)} {_n(me.y)}H{_n(CARD_LEFT)}"/>'


def _dot(each: Dot, picture: Drawing) -> str:
    node = picture.nodes[each.node]
    words = "\n".join([node.name, ", ".join(node.addresses), ", ".join(node.subnets), node.trip])
    wide = 2.5 if each.radius > 6 else 1
    return (f'<circle class="dot {"me" if node.me else node.pace}" cx="{_n(each.x)}" cy="{_n(each.y)}" '
            f'r="{_n(each.radius)}" stroke-width="{wide}"><title>{_safe(words)}</title></circle>')


def _card(card: Card) -> Iterator[str]:
    x, y, width, height = map(_n, card.frame)
    yield f'<rect class="card" x="{x}" y="{y}" width="{width}" height="{height}" rx="14" stroke-width="1.5"/>'
    if card.beads:
        x = _n(card.beads[0].x)
        yield f'<path class="wire" stroke-width="1.5" d="M{x} {_n(card.top)}V{_n(card.bottom)}"/>'
    for each in card.beads:
        yield f'<circle class="bead" cx="{_n(each.x)}" cy="{_n(each.y)}" r="{_n(each.radius)}"/>'
    yield from map(_text, card.texts)


def _legend(picture: Drawing) -> Iterator[str]:
    """What is in this picture, and nothing else."""
    others = {each.pace for each in picture.lines if not each.mine}
    used = {each.pace for each in picture.lines if each.mine} | others - {UNKNOWN}
    rows = [(name, _Stroke(2.2, 0.95), words) for name, (_, _, words) in _PACES.items() if name in used]
    if any(each.mine and not each.direct for each in picture.lines):
        rows.append((f"{_common(picture)}", _Stroke(2.2, 0.95), "through the tunnel"))
    if any(each.direct for each in picture.lines):
        rows.append((f"{_common(picture)} direct", _Stroke(2.2, 0.95), "direct, without a tunnel"))
    if others:
        known = others != {UNKNOWN}
        words = "thin: between other nodes" if known else "between other nodes, not measured"
        rows.append((_common(picture) if known else UNKNOWN, _Stroke(0.8, 0.8), words))
    for number, (classes, stroke, words) in enumerate(rows):
        y = LEGEND_TOP + number * 25
        yield (f'<path class="thread {classes}" stroke-width="{_n(stroke.width)}" stroke-opacity="{stroke.opacity:g}" '
               f'd="M{_n(CARD_LEFT + 4)} {_n(y)}h48"/>')
        yield _text(Text(words, CARD_LEFT + 68, y + 5, 14, "note"))


def _common(picture: Drawing) -> str:
    """The pace that most of this node's lines have, for samples that are not about it."""
    paces = [each.pace for each in picture.lines if each.mine]
    return max(sorted(set(paces)), key=paces.count, default=UNKNOWN)


def _in_words(picture: Drawing) -> str:
    paces = [each.pace for each in picture.nodes[1:]]
    told = ", ".join(f"{paces.count(name)}: {words}" for name, (_, _, words) in _PACES.items() if name in paces)
    pods = len(picture.pods)
    return (f"{picture.about}, on {picture.date}. Seen from {picture.nodes[0].name}, which has {pods} "
            f"pod{'' if pods == 1 else 's'}." + (f" Of its peers {told}." if told else ""))


def _text(each: Text) -> str:
    turn = f' transform="rotate({_n(each.turn)} {_n(each.x)} {_n(each.y)})"' if each.turn else ""
    anchor = f' text-anchor="{each.anchor}"' if each.anchor != "start" else ""
    return (f'<text class="{each.role}" x="{_n(each.x)}" y="{_n(each.y)}" font-size="{_n(each.size)}"{anchor}{turn}>'
            f"{_safe(each.text)}</text>")


def _safe(text: str) -> str:
    """Without what XML has no word for (XML 1.0, section 2.2), the rest escaped."""
    return escaped(_NO_XML.sub("\N{REPLACEMENT CHARACTER}", text))


def _n(value: float) -> str:
    """A number with one decimal, which is finer than a screen."""
    return f"{round(value, 1) + 0.0:.1f}".removesuffix(".0")

