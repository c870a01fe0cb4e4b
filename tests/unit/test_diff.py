"""The diff's two laws, for any two networks: carrying it out makes one into the other, and undoing it leads back."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from cni_plugin.diff import Op, diff, differences, invert
from cni_plugin.kernel.errors import KernelError
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.marks import TABLE
from cni_plugin.model.base import POD, Object, State, state
from cni_plugin.model.layer3 import Addr, Neigh, Route
from cni_plugin.model.links import Bridge, Fdb, PodLink, Port, PortVlan, Up, Veth, Vlan, Vxlan
from cni_plugin.model.nft import Chain, Element, Map, Set, Table

MTUS = st.sampled_from([0, 1400, 1500])
MACS = st.sampled_from(["", "02:00:00:00:00:0a", "02:00:00:00:00:0b"])
BRIDGE, OTHER_BRIDGE, UPLINK = "br0", "br1", "lo"
BRIDGES = "bridge tulle"


@st.composite
def networks(draw: st.DrawFn) -> State:
    """Networks of up to two bridges, two pods' wires and a VXLAN device, in any state of completeness.

    Each wire has its own bridge: no plan moves a pod's port from one bridge to another.
    """
    bridges = draw(st.lists(st.sampled_from([BRIDGE, OTHER_BRIDGE]), unique=True))
    objects: list[Object] = [
        Bridge(name, mtu=draw(MTUS), mac=draw(MACS), promisc=draw(st.booleans())) for name in bridges
    ]
    for name in bridges:
        on_bridge = (Up(name), Addr(name, "10.22.0.1/16"), Route("10.9.0.0/16", name), Vlan(f"{name}.5", name, 5))
        objects += _some(draw, *on_bridge)
    for number in draw(st.lists(st.sampled_from([0, 1]), unique=True)):
        objects += _wire(draw, number, bridges)
    if draw(st.booleans()):
        objects += _overlay(draw)
    return state([*objects, *_rules(draw)])


def _rules(draw: st.DrawFn) -> Iterator[Object]:
    """Chains, a set and a map of any type, and what is in them, in two tables of which one may be wanted by itself."""
    rules = draw(st.lists(st.sampled_from(['accept comment "a 1"', 'ip saddr @near drop comment "b 2"']), unique=True))
    yield from _some(draw, Table(BRIDGES), Chain("net", "type nat hook postrouting priority srcnat;", tuple(rules)))
    for table in draw(st.lists(st.sampled_from([TABLE, BRIDGES]), unique=True)):
        kind, data = draw(st.sampled_from(["ipv4_addr", "ipv6_addr"])), draw(st.sampled_from(["verdict", "mark"]))
        yield from _some(draw, Chain("pod", "", ("ip saddr @near accept",), table))
        yield draw(st.sampled_from([Set("near", kind, table=table), Map("near", kind, data=data, table=table)]))
        for value in draw(st.lists(st.sampled_from(["192.0.2.1", "192.0.2.2"]), unique=True)):
            yield Element("near", value, draw(st.sampled_from(["", "accept", "jump pod"])), table)


def _some(draw: st.DrawFn, *objects: Object) -> Iterator[Object]:
    return (each for each in objects if draw(st.booleans()))


def _wire(draw: st.DrawFn, number: int, bridges: list[str]) -> Iterator[Object]:
    name, peer = f"tl{number}", draw(st.sampled_from([f"eth{number}", f"net{number}"]))
    mtu, mac = draw(MTUS), draw(MACS)
    own = (BRIDGE, OTHER_BRIDGE)[number]
    master = own if own in bridges else ""
    yield Veth(name, master=master, mtu=mtu, peer=peer, peer_mac=mac)
    yield PodLink(peer, mac=mac, mtu=mtu)
    port = Port(name, hairpin=draw(st.booleans()), locked=draw(st.booleans()))
    on_port = (port, PortVlan(name, 5, pvid=draw(st.booleans())), Fdb(name, "0a:00:00:00:00:01")) if master else ()
    in_pod = (
        Up(peer, POD),
        Addr(peer, f"10.22.0.{number + 2}/16", POD),
        Addr(peer, f"fd22::{number + 2}/64", POD, dad=draw(st.booleans())),
        Route("0.0.0.0/0", peer, "10.22.0.1", POD, mtu=draw(MTUS)),
    )
    yield from _some(draw, *on_port, *in_pod)


def _overlay(draw: st.DrawFn) -> Iterator[Object]:
    device = f"tulle.{draw(st.sampled_from([1, 2]))}"
    vni, mtu = draw(st.sampled_from([1, 2])), draw(MTUS)
    yield Vxlan(device, vni, port=8472, local="192.0.2.1", underlay=UPLINK, mtu=mtu)
    mac, vtep = "02:00:00:00:02:00", draw(st.sampled_from(["192.0.2.2", "192.0.2.3"]))
    onlink = draw(st.booleans())
    yield from _some(
        draw,
        Up(device),
        Neigh(device, "10.244.2.0", mac),
        Fdb(device, mac, vtep),
        Route("10.244.2.0/24", device, "10.244.2.0", onlink=onlink),
    )


@given(want=networks(), have=networks())
def test_carrying_out_the_diff_makes_any_network_into_any_other(want: State, have: State) -> None:
    kernel = FakeKernel(have.values())

    kernel.apply(diff(want, have))

    assert diff(want, kernel.state) == []
    assert kernel.state.keys() == want.keys()


@given(want=networks())
def test_there_is_nothing_to_do_where_all_is_as_wanted(want: State) -> None:
    assert diff(want, want) == []


@given(have=networks())
def test_wanting_nothing_removes_everything_and_twice_is_no_error(have: State) -> None:
    kernel = FakeKernel(have.values())

    kernel.apply(diff({}, have))
    assert kernel.state == {}

    kernel.apply(diff({}, have))
    assert kernel.state == {}


@given(want=networks(), data=st.data())
def test_undoing_what_took_effect_of_a_creation_leaves_nothing_whichever_step_fails(
    want: State, data: st.DataObject
) -> None:
    ops = diff(want, {})
    steps = st.sampled_from([None, *range(len(ops))])
    kernel = FakeKernel(fail_at=data.draw(steps))

    done: tuple[Op, ...] = tuple(ops)
    try:
        kernel.apply(ops)
    except KernelError as error:
        done = error.done
    kernel.apply(invert(done))

    assert kernel.state == {}


@given(have=networks(), data=st.data())
def test_undoing_a_change_gives_back_what_was_there_before(have: State, data: st.DataObject) -> None:
    alterable = {key: each for key, each in have.items() if isinstance(each, Bridge | Port | Chain | Fdb)}
    want = have | {key: data.draw(_altered(each)) for key, each in alterable.items()}
    kernel = FakeKernel(have.values())

    ops = diff(want, have)
    kernel.apply(ops)
    assert all(not differences(want[key], kernel.state[key]) for key in want)
    kernel.apply(invert(ops))

    assert kernel.state == have


def _altered(each: Object) -> st.SearchStrategy[Object]:
    if isinstance(each, Bridge):
        return st.builds(Bridge, st.just(each.name), mtu=MTUS, mac=MACS, promisc=st.booleans())
    if isinstance(each, Port):
        return st.builds(Port, st.just(each.name), hairpin=st.booleans(), isolated=st.booleans())
    if isinstance(each, Chain):
        return st.just(structs.replace(each, rules=('return comment "c 3"',)))
    return st.just(each)


@given(want=networks(), have=networks())
def test_removals_come_before_creations_leaves_first_and_links_first(want: State, have: State) -> None:
    ops = diff(want, have)

    removals = [op for op in ops if op.verb == "delete"]
    assert ops[: len(removals)] == removals
    assert [op.object.RANK for op in removals] == sorted((op.object.RANK for op in removals), reverse=True)
    creations = ops[len(removals) :]
    assert [op.object.RANK for op in creations] == sorted(op.object.RANK for op in creations)


def test_a_set_changes_by_its_elements_and_is_never_written_anew() -> None:
    have = [Set("near", "ipv4_addr"), *(Element("near", f"192.0.2.{number}") for number in range(9))]
    ports = [Map("ports", "inet_service", data="verdict"), Element("ports", "80", "jump a")]
    want = [*have[:-1], Element("near", "192.0.2.9"), ports[0], Element("ports", "80", "jump b")]

    assert diff(state(want), state([*have, *ports])) == [
        Op("delete", have[-1]), Op("create", want[-3]), Op("change", want[-1], ports[-1]),
    ]


def test_a_set_of_another_type_is_made_anew_with_what_is_in_it_and_told_to_the_chains_that_look_into_it() -> None:
    looks = Chain("looks", "", ("ip saddr @near accept",))
    others: list[Object] = [Chain("other", "", ("ip saddr @nearer accept",)), Set("nearer", "ipv4_addr")]
    have = [Set("near", "ipv4_addr"), Element("near", "192.0.2.1"), looks, *others]
    want = [Set("near", "ipv4_addr", interval=True), Element("near", "192.0.2.1"), looks, *others]

    assert diff(state(want), state(have)) == [
        Op("delete", have[0]), Op("create", want[0]), Op("change", looks, looks), Op("create", want[1]),
    ]


def test_what_is_in_a_table_goes_with_it_and_all_that_is_in_that() -> None:
    table, near = Table("bridge tulle"), Set("near", "ipv4_addr", table="bridge tulle")
    inside = [near, Element("near", "192.0.2.1", table="bridge tulle")]
    anew = [Op("create", each) for each in inside]

    assert diff({}, state([table, *inside])) == [Op("delete", table)]
    assert diff(state(inside), state([table, *inside])) == [Op("delete", table), *anew]


def test_what_goes_with_its_link_is_not_removed_by_itself() -> None:
    have = state([Veth("tl0", peer="eth0"), PodLink("eth0"), Up("eth0", POD), Addr("eth0", "10.22.0.2/16", POD)])
    vxlan = Vxlan("tulle.1", 1, 8472, "192.0.2.1", UPLINK)
    mac = "02:00:00:00:00:01"
    peers: list[Object] = [Fdb("tulle.1", mac, "192.0.2.2"), Neigh("tulle.1", "10.244.2.0", mac)]

    assert diff({}, state([vxlan, *peers])) == [Op("delete", vxlan)]
    assert Op("delete", Veth("tl0", peer="eth0")) in diff({}, have)


def test_a_port_that_moves_to_its_bridge_gets_its_flags_again() -> None:
    """The kernel forgets a port's flags, VLANs and static entries when the link leaves a bridge."""
    flags: list[Object] = [Port("tl1", hairpin=True), Fdb("tl1", "0a:58:0a:16:00:02")]
    want = state([Veth("tl1", master="tulle0", peer="eth0"), *flags])
    have = state([Veth("tl1", master="other0", peer="eth0"), *flags])
    assert [(op.verb, type(op.object).__name__) for op in diff(want, have)] == [
        ("change", "Veth"),
        ("create", "Port"),
        ("create", "Fdb"),
    ]
