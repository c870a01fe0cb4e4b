"""The map of a cluster: nothing overlaps whatever the nodes are called, it is well-formed, and it says what is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from math import cos, hypot, radians, sin
from types import SimpleNamespace
from typing import Any, TypeAlias, cast
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni_plugin.ctl.cluster.matrix import MatrixRow, Pair
from cni_plugin.ctl.cluster.roster import Member, Roster
from cni_plugin.ctl.map import layout as map_layout
from cni_plugin.ctl.map import picture as map_picture
from cni_plugin.ctl.map import svg as map_svg
from cni_plugin.ctl.map.layout import Box, Dot, Text, corners, fit, layout, shortened
from cni_plugin.ctl.map.picture import FAST, LOST, MIDDLE, SLOW, UNKNOWN, Drawing, pace
from cni_plugin.store.records import Record

SVG = "{http://www.w3.org/2000/svg}"
Shape: TypeAlias = Sequence[tuple[float, float]]
SIZES = [1, 2, 3, 8, 10, 11, 25, 60, 61, 250, 1000]
names = st.text(st.characters(min_codepoint=33, max_codepoint=0x24F), min_size=1, max_size=63)


odd = st.text(min_size=1, max_size=40)


def cluster(called: Sequence[str]) -> Roster:
    """This node is the first; each fourth peer is reached directly."""
    members = tuple(
        Member(
            name=name, addresses=(f"192.0.2.{number % 256}", f"2001:db8::{number:x}"),
            subnets=(f"10.{244 + number // 256}.{number % 256}.0/24", f"fd00:10:{number:x}::/64"),
            overlay=(f"10.244.{number % 256}.0",), me=number == 0,
            way="" if number == 0 else "direct" if number % 4 == 0 else "vxlan",
        )
        for number, name in enumerate(called)
    )
    return Roster(
        network="pods", source="/run/tulle/cluster.json", node=called[0], backend="vxlan", device="tulle.1", vni=1,
        port=8472, mtu=1450, networks=("10.244.0.0/16",), members=members, programmed=True,
    )


def picture(called: Sequence[str], pods: int = 0, rows: Sequence[MatrixRow] = ()) -> Drawing:
    records = [
        SimpleNamespace(container=f"pod-{number}-{'f' * 50}", ips=(f"10.244.0.{number % 250}/24",) * 2, bridge="tulle0")
        for number in range(pods)
    ]
    return map_picture.picture(cluster(called), rows, cast("list[Record]", records), "2026-11-21 17:00 UTC")


def called(count: int, pattern: str = "node-{}") -> list[str]:
    return [pattern.format(number) for number in range(count)]


def around(dot: Dot) -> Shape:
    """The octagon around a dot."""
    reach = dot.radius / cos(radians(22.5))
    return [(dot.x + reach * cos(radians(a)), dot.y + reach * sin(radians(a))) for a in range(22, 382, 45)]


def frame(each: Box) -> Shape:
    x, y, width, height = each
    return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]


def touch(one: Shape, other: Shape) -> bool:
    """Whether two convex shapes overlap: no line between them parts them (the separating axis theorem)."""
    for shape in (one, other):
        for (x1, y1), (x2, y2) in zip(shape, [*shape[1:], shape[0]], strict=True):
            ax, ay = y1 - y2, x2 - x1
            first, second = ([ax * x + ay * y for x, y in each] for each in (one, other))
            if max(first) <= min(second) + 1e-6 or max(second) <= min(first) + 1e-6:
                return False
    return True


def shapes(drawn: Drawing) -> Iterator[tuple[str, Shape]]:
    """All that must lie apart outside of the card, and the card itself."""
    plan = layout(drawn)
    yield from ((f"text {each.text}", corners(each)) for each in plan.texts)
    yield from ((f"dot {each.node}", around(each)) for each in plan.dots)
    yield "card", frame(plan.card.frame)
    end = plan.dots[0].x + plan.dots[0].radius * 1.1
    yield "wire to the card", frame(Box(end, map_layout.CENTRE[1] - 2, map_layout.CARD_LEFT - end, 4))
    yield "legend", frame(Box(map_layout.CARD_LEFT, map_layout.LEGEND_TOP - 12, 386, 8 * 25))
    yield "title", frame(Box(0, 0, map_layout.WIDTH, 130))


def overlaps(found: Sequence[tuple[str, Shape]]) -> list[tuple[str, str]]:
    """Which of them overlap; those that are far from each other are not looked at closely."""
    near = [(what, shape, *bounds(shape)) for what, shape in found]
    return [
        (one[0], other[0]) for one, other in combinations(near, 2)
        if one[2] < other[3] and other[2] < one[3] and one[4] < other[5] and other[4] < one[5]
        and touch(one[1], other[1])
    ]


def bounds(shape: Shape) -> tuple[float, float, float, float]:
    xs, ys = zip(*shape, strict=True)
    return min(xs), max(xs), min(ys), max(ys)


def off_the_sheet(found: Sequence[tuple[str, Shape]]) -> list[str]:
    wide, high = map_layout.WIDTH, map_layout.HEIGHT
    return [what for what, shape in found if any(not (0 <= x <= wide and 0 <= y <= high) for x, y in shape)]


@pytest.mark.parametrize("pattern", ["n{}", "ip-10-0-12-{:04}.eu-west-1.compute.internal", "{}" + "m" * 62])
@pytest.mark.parametrize("count", SIZES)
def test_nothing_overlaps_and_all_is_on_the_sheet(count: int, pattern: str) -> None:
    found = list(shapes(picture(called(count, pattern), pods=5)))
    assert (overlaps(found), off_the_sheet(found)) == ([], [])


@settings(max_examples=60, deadline=None)
@given(st.lists(names, min_size=1, max_size=70, unique=True), st.integers(0, 300))
def test_nothing_overlaps_whatever_nodes_are_called(names: list[str], pods: int) -> None:
    found = list(shapes(picture(names, pods)))
    assert (overlaps(found), off_the_sheet(found)) == ([], [])


@pytest.mark.parametrize("pods", [0, 1, 3, 12, 13, 14, 40, 110, 250, 1000])
def test_a_card_holds_all_that_is_on_it_and_nothing_there_overlaps(pods: int) -> None:
    card = layout(picture(called(3), pods)).card
    inside: list[tuple[str, Shape]] = [(each.text, corners(each)) for each in card.texts]
    inside += [(f"bead {number}", around(each)) for number, each in enumerate(card.beads)]
    x, y, width, height = card.frame
    assert overlaps(inside) == []
    assert all(x <= a <= x + width and y <= b <= y + height for _, shape in inside for a, b in shape)
    assert y >= map_layout.CARD_TOP and y + height <= map_layout.CARD_BOTTOM + 1e-6


def test_a_text_is_taken_for_at_least_as_wide_as_wide_fonts_have_it() -> None:
    """Advances of DejaVu Sans Bold, in thousandths of the size: n 712, o 687, d 716, e 678, - 415, a digit 696."""
    (left, _), (right, _), *_ = corners(Text("node-123", 0, 0, 10, "name"))
    assert right - left >= (712 + 687 + 716 + 678 + 415 + 3 * 696) / 100


def test_names_lose_what_all_share_only_where_they_are_too_long() -> None:
    assert shortened(["n1", "n2"], 200, 15) == ["n1", "n2"]
    long = [f"ip-10-0-12-{number}.eu-west-1.compute.internal" for number in (3, 14)]
    assert shortened(long, 200, 15) == ["…3", "…14"]
    apart = ["a" * 60, "b" * 60]
    assert shortened(apart, 200, 15) == apart
    assert fit("a" * 30 + "b" * 30, 68, 10) == "aaaa…bbbb"


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80), st.floats(40, 400), st.floats(8, 30))
def test_a_text_that_was_fitted_fits(text: str, room: float, size: float) -> None:
    short = fit(text, room, size)
    assert map_layout.width(Text(short, 0, 0, size, "name")) <= max(room, 3 * size * 0.68) + 1e-6
    assert short == text or "…" in short


def rows(count: int, ms: float = 0.5) -> list[MatrixRow]:
    every = called(count)
    return [MatrixRow(one, {other: Pair(ms) for other in every if other != one}) for one in every]


@pytest.mark.parametrize("count", SIZES)
def test_it_is_well_formed_says_itself_in_words_and_fetches_nothing(count: int) -> None:
    text = map_svg.draw(picture(called(count), 3, rows(min(count, 8))))
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg" and root.get("role") == "img"
    assert root.get("aria-labelledby") == "title desc"
    title, desc = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None and desc is not None
    assert (title.get("id"), desc.get("id")) == ("title", "desc")
    said = desc.text or ""
    assert f"{count} node" in said and "3 pods" in said
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)|href|@import|url\(|<script|<image", text) == []
    assert "prefers-color-scheme:dark" in text


@settings(max_examples=60, deadline=None)
@given(st.lists(odd, min_size=1, max_size=5, unique=True))
def test_no_name_breaks_it(names: list[str]) -> None:
    root = ElementTree.fromstring(map_svg.draw(picture(names, 1)))
    told = [each.text or "" for each in root.iter(f"{SVG}title")]
    plain = [name for name in names if name.isprintable()]
    assert all(any(name in text for text in told) for name in plain)


def test_it_is_the_same_for_the_same() -> None:
    assert map_svg.draw(picture(called(25), 9, rows(25))) == map_svg.draw(picture(called(25), 9, rows(25)))


def threads(text: str) -> list[str]:
    """The classes of the lines between nodes, the legend's left out."""
    found = ElementTree.fromstring(text).iter(f"{SVG}path")
    return [each.get("class", "") for each in found if "Q" in each.get("d", "")]


def test_every_pair_has_a_line_of_the_colour_of_its_worse_direction() -> None:
    told = [
        MatrixRow("node-0", {"node-1": Pair(0.4), "node-2": Pair(3.0)}),
        MatrixRow("node-1", {"node-0": Pair(12.0), "node-2": Pair(None, True)}),
    ]
    drawn = picture(called(3), 0, told)
    assert {(each.one, each.other): each.pace for each in drawn.lines} == {(0, 1): SLOW, (0, 2): MIDDLE, (1, 2): LOST}
    assert sorted(each.split()[1] for each in threads(map_svg.draw(drawn))) == sorted([SLOW, MIDDLE, LOST])


def test_what_nobody_measured_is_drawn_as_unknown_and_the_legend_says_so() -> None:
    text = map_svg.draw(picture(called(3)))
    assert {each.split()[1] for each in threads(text)} == {UNKNOWN}
    assert "not measured" in text and "no answer" not in text


def test_peers_past_the_tunnel_have_stitched_lines() -> None:
    text = map_svg.draw(picture(called(6), 0, rows(6)))
    assert sum("direct" in each for each in threads(text)) == 1
    assert "direct, without a tunnel" in text and "through the tunnel" in text
    assert "without a tunnel" not in map_svg.draw(picture(called(3), 0, rows(3)))


@pytest.mark.parametrize(("pair", "word"), [
    (None, UNKNOWN), (Pair(), UNKNOWN), (Pair(None, True), LOST), (Pair(0.99), FAST), (Pair(1.0), MIDDLE),
    (Pair(9.9), MIDDLE), (Pair(10.0), SLOW),
])  # fmt: skip
def test_round_trips_have_paces(pair: Pair | None, word: str) -> None:
    assert pace(pair) == word


def test_in_a_large_cluster_every_node_is_a_dot_and_sectors_have_the_lines() -> None:
    drawn = picture(called(250))
    plan = layout(drawn)
    assert sorted(each.node for each in plan.dots) == list(range(250))
    assert sorted(node for each in plan.sectors for node in each.nodes) == list(range(1, 250))
    assert len(drawn.lines) == 249
    radius = {round(hypot(each.x - map_layout.CENTRE[0], each.y - map_layout.CENTRE[1])) for each in plan.sectors}
    assert radius == {round(plan.radius + 9)} or len(radius) == 1


def test_a_picture_is_plain_values() -> None:
    drawn: Any = msgspec.json.decode(msgspec.json.encode(picture(called(3), 2)))
    assert [each["name"] for each in drawn["nodes"]] == called(3)
    assert drawn["pods"][0]["ips"] == ["10.244.0.0", "10.244.0.0"]
