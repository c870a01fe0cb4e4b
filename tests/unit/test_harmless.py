"""Whatever a configuration holds, only what is known to be harmless is shown; and that is what an operator needs."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin.agent.metrics.journal import Journal, Served
from cni_plugin.harmless import LEFT_OUT, Censor, without_credentials

MARK = "S3KR1T"
MARKS = st.sampled_from([
    f"{MARK}-0042", f"hunter2{MARK}", f"{MARK}/+=", f"http://u:{MARK}x@h:1/p", f"https://hooks.example/{MARK}",
    f"postgres://db/x?password={MARK}xyz", f"--token={MARK}abc", f"Bearer {MARK}defg", f'say "{MARK}quoted"',
    f"{MARK}\u00e9\u00df",
])
OURS: dict[str, Any] = {
    "cniVersion": "1.1.0", "name": "pods", "type": "tulle", "bridge": "cni0", "isGateway": True, "ipMasq": False,
    "mtu": 1450,
    "ipam": {
        "type": "host-local", "dataDir": "/var/lib/cni/networks", "resolvConf": "/etc/resolv.conf",
        "ranges": [
            [{"subnet": "10.22.0.0/24", "rangeStart": "10.22.0.10", "gateway": "10.22.0.1"}], [{"subnet": "fd00::/64"}],
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.22.0.1", "mtu": 1400}],
    },
    "dns": {"nameservers": ["10.96.0.10"], "domain": "cluster.local", "search": ["svc.local"], "options": ["ndots:5"]},
    "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "::1"}]},
    "cluster": {
        "network": "10.244.0.0/16", "backend": {"type": "vxlan", "vni": 1, "port": 8472, "directRouting": False},
        "nodes": [{"name": "node1", "address": "192.0.2.1", "podCIDRs": ["10.244.1.0/24"]}],
    },
    "source": {"type": "etcd", "endpoints": ["https://192.0.2.9:2379"], "prefix": "/coreos.com", "caFile": "/ca.pem"},
    "metrics": "127.0.0.1:9472",
}


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every object and list in it."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [path] if isinstance(value, dict) else []
    return found + [each for key, inner in pairs for each in places(inner, (*path, key))]


def at(shape: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        shape = shape[key]
    return shape


def hidden(secret: str) -> list[Any]:
    """The forms in which somebody may have written a secret."""
    return [
        secret, [secret], {"value": secret}, [{"name": "X-Auth", "value": secret}], {"name": secret, "type": secret},
        {secret: True}, [[{"a": [secret]}]],
    ]


def unknown(key: str) -> bool:
    return Censor().json({key: "some-value"}) == {key: LEFT_OUT}


@given(
    st.sampled_from(places(OURS)), MARKS, st.integers(0, 6),
    st.sampled_from(["password", "pat", "pw", "auth", "psk", "isGatway", "headers", "env", "args", "labels", "DSN"])
    | st.text("abcdefgABC_-", min_size=1, max_size=12).filter(unknown),
)
def test_a_secret_under_a_key_that_is_not_known_never_shows(
    place: tuple[str | int, ...], secret: str, form: int, key: str
) -> None:
    shape = json.loads(json.dumps(OURS))
    at(shape, place)[key] = hidden(secret)[form]
    censor = Censor()
    shown = json.dumps(censor.json(shape), ensure_ascii=False)
    assert MARK not in shown
    assert {**OURS, "x": 1}["name"] in shown
    for text in (f"no such thing: {secret}", json.dumps([secret], ensure_ascii=False), quote(secret, safe="")):
        assert MARK not in censor.text(text), text


@pytest.mark.parametrize("key", [
    "mtu", "vlan", "isGateway", "subnet", "gateway", "address", "addresses", "dataDir", "resolvConf", "kubeconfig",
    "caFile", "hostPort", "vni", "plugins", "dns", "routes", "username", "prefix",
])
def test_a_secret_under_a_known_key_of_another_shape_does_not_show(key: str) -> None:
    for form in hidden(f"{MARK} x"):
        assert MARK not in json.dumps(Censor().json({key: form})), form


def test_what_an_operator_needs_shows() -> None:
    shown = Censor().json(OURS)
    assert isinstance(shown, dict)
    assert shown == OURS


@pytest.mark.parametrize("value", [
    True, False, None, 0, 7, "", "192.0.2.1", "2001:db8::1/64", "10.0.0.5-10.0.0.9", "0a:58:0a:16:00:05",
    "127.0.0.1:9472", "[::1]:80", "22",
])
def test_switches_small_numbers_and_addresses_show_under_any_key(value: object) -> None:
    assert Censor().json({"whatever": [value]}) == {"whatever": [value]}


@pytest.mark.parametrize("value", [
    123456, 3.14159e5, "123456", "192.0.2.1:secret", "fe80::1%secret", "secret-192.0.2.1", "192.0.2.1/secret", "a",
])
def test_all_else_does_not(value: object) -> None:
    assert Censor().json({"whatever": value}) == {"whatever": LEFT_OUT}


@pytest.mark.parametrize(("url", "shown"), [
    ("http://root:pw@192.0.2.9:2379/v3?token=x#y", "http://192.0.2.9:2379"), ("https://etcd.lan", "https://etcd.lan"),
    ("192.0.2.9:2379", "192.0.2.9:2379"), ("http://[2001:db8::9]:2379", "http://[2001:db8::9]:2379"),
    ("http://u:p@", LEFT_OUT), ("secret", LEFT_OUT), ("postgres://u:p@db/x", LEFT_OUT), ("http://h:port", LEFT_OUT),
])
def test_of_a_url_scheme_host_and_port_show(url: str, shown: str) -> None:
    assert without_credentials(url) == shown
    assert Censor().json({"endpoints": [url]}) == {"endpoints": [shown]}


@pytest.mark.parametrize("text", [
    f"dial http://root:{MARK}/@x@192.0.2.9:2379: refused", f"GET https://h/p?key={MARK}", f"Bearer {MARK}abc",
    f"--password={MARK}", f"api_key: {MARK}", f"eyJ{MARK}.eyJz.c2ln", f"-----BEGIN KEY-----\n{MARK}\n-----END KEY-----",
])
def test_what_looks_like_a_secret_in_a_text_is_left_out(text: str) -> None:
    assert MARK not in Censor().text(text)


def test_a_short_secret_is_found_as_a_word_only_and_what_shows_elsewhere_is_no_secret() -> None:
    censor = Censor()
    censor.json({"password": "eth", "other": "host-local", "type": "host-local"})
    assert censor.text("no eth on eth0, says host-local") == f"no {LEFT_OUT} on eth0, says host-local"


def test_what_is_no_json_is_left_out_and_remembered() -> None:
    censor = Censor()
    assert censor.document(f'{{"token": "{MARK}-1", broken') == ""
    assert censor.text(f"no {MARK}-1") == f"no {LEFT_OUT}"


def test_of_an_environment_the_requests_own_variables_show() -> None:
    shown = Censor().environ({
        "CNI_COMMAND": "ADD", "CNI_SECRET": MARK, "HOME": "/root", "CNI_NETNS": "/run/netns/a",
        "CNI_ARGS": f"K8S_POD_NAME=web-0;IP=10.0.0.5;TOKEN={MARK};{MARK}=x;K8S_POD_UID={MARK} {MARK}",
    })
    assert shown.keys() == {"CNI_COMMAND", "CNI_NETNS", "CNI_ARGS"}
    assert shown["CNI_ARGS"].startswith(f"K8S_POD_NAME=web-0;IP=10.0.0.5;TOKEN={LEFT_OUT};")
    assert MARK not in shown["CNI_ARGS"]


def test_the_agent_tells_no_secret_of_the_requests_that_it_served() -> None:
    journal = Journal("error")
    conf = json.dumps({"name": "pods", "type": "tulle", "mtu": 1450, "apiKey": f"{MARK}-7"})
    answer = json.dumps({"code": 7, "msg": f"invalid apiKey {MARK}-7: remove it"})
    journal.served(Served(
        verb="ADD", name="tulle", network="pods", container="a", ifname="eth0", code=7, message=f"invalid {MARK}-7",
        at=0.0, seconds=0.1, steps={}, environ={"CNI_COMMAND": "ADD", "CNI_ARGS": f"X={MARK}"}, stdin=conf,
        stdout=answer,
    ))
    (told,) = journal.recent()
    assert MARK not in repr(told)
    assert json.loads(told.stdin)["mtu"] == 1450
    assert json.loads(told.stdout)["msg"] == f"invalid apiKey {LEFT_OUT}: remove it"
