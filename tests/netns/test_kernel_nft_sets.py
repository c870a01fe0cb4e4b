"""Sets, maps and what is in them in a real kernel: by elements, in one transaction, at a cost that does not grow."""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Iterator
from itertools import cycle, groupby

import pytest

from cni_plugin.diff import Op, diff, invert
from cni_plugin.kernel.errors import KernelError
from cni_plugin.kernel.linux import LinuxKernel
from cni_plugin.kernel.nft.nft_raw import GET_ELEMENT, GET_GENERATION, GET_SET, Change, RawNft
from cni_plugin.kernel.rtnl.codec import NLM_F_DUMP
from cni_plugin.kernel.rtnl.raw import attribute, attributes
from cni_plugin.model.base import Object, State, state
from cni_plugin.model.links import Bridge
from cni_plugin.model.nft import Chain, Element, Map, Set, Table
from tests.netns.kernel_world import MakeNetns, kernel_of, put, run, wrong
from tests.netns.test_kernel_nft import FOREIGN, rule, sent

MANY = 50_000
PODS = Map("pods", "ipv4_addr", data="verdict")
POD = Chain("pod7", "", (rule("ip saddr @near accept"), rule("drop")))
FORWARD = "type filter hook forward priority filter; policy accept;"
DISPATCH = Chain("dispatch", FORWARD, (rule("ip daddr vmap @pods"),))
POLICY: list[Object] = [
    Set("near", "ipv4_addr"), Element("near", "10.0.0.1"), PODS, POD, DISPATCH,
    Element("pods", "10.0.0.7", "jump pod7"),
]
HOST_PORTS: list[Object] = [
    Map("ports", "ipv4_addr . inet_proto . inet_service", data="ipv4_addr . inet_service"),
    Element("ports", "192.0.2.1 . tcp . 8080", "10.0.0.7 . 80"),
    Element("ports", "192.0.2.1 . udp . 53", "10.0.0.7 . 53"),
]
RANGES: list[Object] = [
    Set("blocks", "ipv4_addr", interval=True),
    *(Element("blocks", each) for each in ("10.0.0.0/8", "11.0.0.0-11.0.0.9", "192.0.2.1", "240.0.0.0/4", "0.0.0.0/8")),
    Set("doors", "ipv4_addr . inet_service", interval=True), Element("doors", "10.0.0.0/8 . 80-90"),
    Map("lanes", "inet_service", data="mark", interval=True), Element("lanes", "80-90", "0x00000007"),
]
KINDS = {
    "mark": ("0x00000001", "0xffffffff"), "ifname": ('"eth0"', '"tl0123456789abc"'), "inet_proto": ("tcp", "200"),
    "ether_addr": ("02:00:00:00:00:01",), "ipv6_addr": ("fd00::1", "2001:db8::"), "inet_service": ("80", "65535"),
    "ifname . ipv4_addr . ipv6_addr": ('"eth0" . 192.0.2.1 . fd00::1',),
}
OF_KINDS: list[Object] = [
    each
    for number, (kind, values) in enumerate(KINDS.items())
    for each in (Set(f"kind{number}", kind), *(Element(f"kind{number}", value) for value in values))
]
EVERYTHING = {"policy": POLICY, "host ports": HOST_PORTS, "ranges": RANGES, "types": OF_KINDS}


@pytest.fixture
def kernel(netns: MakeNetns) -> Iterator[LinuxKernel]:
    with kernel_of(netns("node")) as kernel:
        run(f"nft {FOREIGN}")
        yield kernel


def generation() -> int:
    raw = RawNft()
    try:
        return raw.generation()
    finally:
        raw.close()


@pytest.mark.parametrize("objects", EVERYTHING.values(), ids=EVERYTHING)
def test_what_is_wanted_stands_and_goes_without_a_trace(kernel: LinuxKernel, objects: list[Object]) -> None:
    before, whole = run("nft list ruleset"), state(objects)

    put(kernel, objects)
    assert kernel.read(objects) == whole
    with LinuxKernel() as another:
        assert another.read(objects) == whole
    for each in objects:
        if isinstance(each, Set | Map):
            inside = {key: one for key, one in whole.items() if one.holder == each.key}
            assert kernel.elements(each.name) == inside
    kernel.apply(diff({}, kernel.read(objects)))

    assert run("nft list ruleset") == before


@pytest.mark.parametrize("objects", [HOST_PORTS, RANGES, OF_KINDS], ids=["host ports", "ranges", "types"])
def test_messages_and_words_make_the_same(kernel: LinuxKernel, objects: list[Object]) -> None:
    """What nft lists is what it lists where it was told by its library, or by the lines that a plan prints."""
    put(kernel, objects)
    by_messages = listed(objects)

    kernel.apply(diff({}, state(objects)))
    put(kernel, [*objects, POLICY[0], POD])
    by_words = listed(objects)

    run("nft flush ruleset")
    for op in diff(state(objects), {}):
        for line in op.object.words(op.verb).splitlines():
            run(line.replace("'", ""))

    assert by_messages == by_words == listed(objects)


def listed(objects: list[Object]) -> dict[str, list[str]]:
    """What nft says of each set or map, word by word, whatever order the kernel keeps them in."""
    names = {("set" if isinstance(each, Set) else "map", each.name) for each in objects if isinstance(each, Set | Map)}
    texts = {name: run(f"nft list {what} inet tulle {name}") for what, name in names}
    return {name: sorted(re.findall(r"[^\s,]+", text)) for name, text in texts.items()}


def test_nft_is_left_no_note_that_another_version_of_it_may_not_know(kernel: LinuxKernel) -> None:
    """Of a set nothing but in which byte orders its values are, noted by each since 0.9; of an element nothing."""
    put(kernel, [*HOST_PORTS, *RANGES, *OF_KINDS])
    raw, notes, elements = RawNft(), set[int](), 0
    for _, body in raw.ask(Change(GET_SET, "inet tulle", b"", NLM_F_DUMP)):
        found = dict(attributes(body, 0, len(body)))
        noted, name = found[13], found[2]
        notes.update(noted[at] for at in range(0, len(noted), 6))
        what = Change(GET_ELEMENT, "inet tulle", attribute(2, name), NLM_F_DUMP)
        for _, items in raw.ask(what):
            each_item = dict(attributes(items, 0, len(items)))[3]
            parts = [dict(attributes(item, 0, len(item))) for _, item in attributes(each_item, 0, len(each_item))]
            elements += len(parts)
            assert all(6 not in part for part in parts)
    raw.close()

    assert notes == {0, 1}
    assert elements > 20


@pytest.mark.parametrize("kind", ["set", "map"])
def test_one_element_among_fifty_thousand_is_what_it_is_among_ten(
    kernel: LinuxKernel, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    asked: dict[int, list[tuple[int, int]]] = {}
    for number in (10, MANY):
        holder, *inside, more = many(kind, number)
        put(kernel, [holder, *inside])
        with sent(monkeypatch) as messages:
            kernel.apply([Op("create", more)])
            assert kernel.read([more, *inside[:2]]) == state([more, *inside[:2]])
            kernel.apply([Op("delete", more)])
            assert kernel.read([more]) == {}
        asked[number] = [(each.kind, len(each.what)) for each in messages]
        assert kernel.read([holder, *inside]) == state([holder, *inside])
        kernel.apply([Op("delete", holder)])

    assert asked[10] == asked[MANY]


def many(kind: str, number: int) -> list[Object]:
    """A set or map, so many elements, and one more."""
    addresses = [f"10.{each >> 16}.{each >> 8 & 255}.{each & 255}" for each in range(number + 1)]
    if kind == "set":
        return [Set("many", "ipv4_addr"), *(Element("many", each) for each in addresses)]
    holder = Map("many", "ipv4_addr . inet_proto . inet_service", data="ipv4_addr . inet_service")
    return [holder, *(Element("many", f"{each} . tcp . 8080", f"{each} . 80") for each in addresses)]


def test_nothing_is_read_that_we_have_read_or_written_ourselves(
    kernel: LinuxKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, *inside, more = many("map", 100)
    put(kernel, [holder, *inside, *POLICY])
    there = {**kernel.elements("many"), **kernel.read([POD, DISPATCH])}
    kernel.apply([Op("create", more)])
    kernel.apply([Op("delete", inside[0])])

    with sent(monkeypatch) as messages:
        assert kernel.elements("many") == state([*inside[1:], more])
        assert kernel.read([POD, DISPATCH, *inside]) == state([POD, DISPATCH, *inside[1:]])
    assert {each.kind for each in messages} == {GET_GENERATION}
    assert len(there) == 102

    run("nft delete element inet tulle many { 10.0.0.9 . tcp . 8080 }")
    assert kernel.elements("many") == state([each for each in [*inside[1:], more] if each != inside[9]])


def test_all_of_a_call_is_one_transaction_whatever_else_is_between(kernel: LinuxKernel) -> None:
    gone = Chain("gone", "", (rule("accept"),))
    old: list[Object] = [Set("near", "ipv6_addr"), Element("near", "fd00::1"), gone, Bridge("br0")]
    put(kernel, old)
    new: list[Object] = [*POLICY, *HOST_PORTS]
    ops = diff(state([*new, Bridge("br1")]), state(old))
    assert [kind for kind, _ in groupby(op.object.SPOKEN for op in ops)] == ["nft", "rtnl", "nft"]

    before = generation()
    kernel.apply(ops)

    assert generation() == before + 1
    assert wrong(kernel, new) == []
    assert kernel.read([gone]) == {}
    assert (kernel.link_index("br0"), bool(kernel.link_index("br1"))) == (0, True)


def test_a_set_of_another_type_takes_the_place_of_one_that_a_chain_looks_into(kernel: LinuxKernel) -> None:
    put(kernel, POLICY)
    wider: list[Object] = [Set("near", "ipv4_addr", interval=True), Element("near", "10.0.0.0/8"), *POLICY[2:]]

    before = generation()
    kernel.apply(diff(state(wider), kernel.read(POLICY)))

    assert generation() == before + 1
    assert wrong(kernel, wider) == []
    with LinuxKernel() as another:
        assert another.read(wider) == state(wider)


def test_a_refused_transaction_changes_nothing_of_any_kind(kernel: LinuxKernel) -> None:
    put(kernel, POLICY)
    before = run("nft list ruleset")
    more: list[Object] = [*HOST_PORTS, Element("near", "10.0.0.2"), Element("pods", "10.0.0.8", "jump nowhere")]

    for refused in (more, [*more, Chain("more", "", (rule("accept"),))]):
        with pytest.raises(KernelError) as caught:
            put(kernel, refused)
        assert caught.value.done == ()
        assert run("nft list ruleset") == before


@pytest.mark.parametrize("with_rules", [False, True], ids=["by messages", "by words"])
def test_what_does_not_stand_as_we_think_is_put_right_all_the_same(kernel: LinuxKernel, with_rules: bool) -> None:
    """A map's element that leads elsewhere refuses to be made, one that is gone to be taken away."""
    chains = [Chain("more", "", (rule("accept"),))] if with_rules else []
    put(kernel, POLICY)
    run("nft add element inet tulle pods { 10.0.0.8 : drop, 10.0.0.9 : drop }")
    ops = [
        Op("create", Element("pods", "10.0.0.8", "accept")), Op("delete", Element("pods", "10.0.0.1", "accept")),
        Op("change", Element("pods", "10.0.0.2", "accept"), Element("pods", "10.0.0.2", "drop")),
        Op("delete", Element("pods", "10.0.0.9", "accept")), Op("delete", Set("none", "mark")),
        Op("delete", Element("none", "0x00000001")), *(Op("create", each) for each in chains),
    ]

    kernel.apply(ops)
    kernel.apply(ops)

    assert kernel.elements("pods") == state([
        Element("pods", "10.0.0.7", "jump pod7"), Element("pods", "10.0.0.8", "accept"),
        Element("pods", "10.0.0.2", "accept"),
    ])
    assert kernel.read(chains) == state(chains)


def test_an_element_without_a_set_is_refused_in_words_that_name_it(kernel: LinuxKernel) -> None:
    with pytest.raises(KernelError, match="there is no set or map inet tulle none"):
        put(kernel, [Element("none", "192.0.2.1")])
    with pytest.raises(KernelError, match="fd00::1 is no ipv4_addr"):
        put(kernel, [Set("near", "ipv4_addr"), Element("near", "fd00::1")])


def test_what_was_made_is_taken_back_whole(kernel: LinuxKernel) -> None:
    before = run("nft list ruleset")
    ops = diff(state([*POLICY, *HOST_PORTS]), {})
    kernel.apply(ops)
    kernel.apply(invert(ops))

    assert run("nft list ruleset") == before


def test_a_table_of_bridges_has_chains_and_sets_of_its_own(kernel: LinuxKernel) -> None:
    table = "bridge tulle"
    hold = rule("iifname . ether saddr . ip saddr != @held drop")
    ours: list[Object] = [
        Table(table), Set("held", "ifname . ether_addr . ipv4_addr", table=table),
        Chain("hold", "type filter hook prerouting priority dstnat; policy accept;", (hold,), table),
        Element("held", '"tl0" . 02:00:00:00:00:01 . 10.0.0.7', table=table),
    ]
    put(kernel, POLICY)
    before = run("nft list ruleset")

    put(kernel, ours)
    assert kernel.read(ours) == state(ours)
    assert kernel.elements("held", table) == state(ours[-1:])
    with LinuxKernel() as another:
        assert wrong(another, ours) == []
    kernel.apply(diff({}, kernel.read(ours)))

    assert run("nft list ruleset") == before


def test_who_is_killed_in_the_middle_leaves_one_or_the_other_and_nothing_between(kernel: LinuxKernel) -> None:
    """Each transaction turns one policy into the other; whenever the process that makes them ends, one stands whole."""
    one = state([*POLICY, *(Element("near", f"10.1.0.{number}") for number in range(200))])
    other = state([
        Set("near", "ipv4_addr", interval=True), *(Element("near", f"10.{number}.0.0/16") for number in range(200)),
        PODS, Chain("pod8", "", (rule("accept"),)), DISPATCH, Element("pods", "10.0.0.8", "goto pod8"),
    ])
    either = {**other, **one}
    chance = random.Random(7)
    kills, seen = 0, set[int]()
    kernel.apply(diff(one, {}))
    while kills < 12 or len(seen) < 2:
        child, kills, before = os.fork(), kills + 1, generation()
        if not child:
            _turn(one, other, either)
        while generation() < before + chance.randrange(1, 9):
            os.sched_yield()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with LinuxKernel() as reader:
            found = _standing(reader, either)
            assert found in (one, other)
            seen.add(len(found))
    assert len(seen) == 2


def _turn(one: State, other: State, either: State) -> None:
    try:
        with LinuxKernel() as kernel:
            for want in cycle((other, one)):
                kernel.apply(diff(want, _standing(kernel, either)))
    finally:
        os._exit(1)


def _standing(kernel: LinuxKernel, either: State) -> State:
    """What there is of two policies, in the words of who wants it, at one moment: a library may not be through yet."""
    before, found = 0, state([])
    while before != generation():
        before = generation()
        found = kernel.read(each for each in either.values() if not isinstance(each, Element))
        found |= {**kernel.elements("near"), **kernel.elements("pods")}
    return found
