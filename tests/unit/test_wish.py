"""What was asked for one pod: whose word goes first, and what is refused."""

from __future__ import annotations

import pytest

from cni_plugin import plugins
from cni_plugin import wish as asked
from cni_plugin.conf.plugin import NetConf
from cni_plugin.errors import CniError
from cni_plugin.wish import Wish

Json = dict[str, object]
BASE: Json = {"cniVersion": "1.0.0", "name": "pods", "type": "tulle", "ipam": {"type": "host-local"}}


def conf(**keys: object) -> NetConf:
    return plugins.parse({**BASE, **keys}).conf


def wish(cni_args: dict[str, str], **keys: object) -> Wish:
    return asked.wish(conf(**keys), cni_args)


MACS: Json = {
    "runtimeConfig": {"mac": "02:00:00:00:00:03"},
    "args": {"cni": {"mac": "02:00:00:00:00:02"}},
    "mac": "02:00:00:00:00:00",
}


def test_a_mac_of_runtime_config_goes_before_args_before_cni_args_before_the_configuration() -> None:
    said = {"MAC": "02:00:00:00:00:01"}
    assert wish(said, **MACS).mac == "02:00:00:00:00:03"
    assert wish(said, args=MACS["args"], mac=MACS["mac"]).mac == "02:00:00:00:00:02"
    assert wish(said, mac=MACS["mac"]).mac == "02:00:00:00:00:01"
    assert wish({}, mac=MACS["mac"]).mac == "02:00:00:00:00:00"
    assert wish({}).mac == ""


def test_requested_addresses_of_all_three_places_are_taken_together() -> None:
    found = wish({"IP": "10.22.0.5"}, args={"cni": {"ips": ["10.22.0.6/24"]}}, runtimeConfig={"ips": ["fd00::7/64"]})
    assert found.ips == ("10.22.0.5", "10.22.0.6/24", "fd00::7/64")


def test_a_mac_is_read_with_dashes_and_in_capitals() -> None:
    assert wish({"MAC": "0A-58-AB-CD-EF-01"}).mac == "0a:58:ab:cd:ef:01"


@pytest.mark.parametrize("mac", ["x", "02:00:00:00:00", "02:00:00:00:00:0g", "01:00:00:00:00:01", "2:0:0:0:0:1"])
def test_what_no_interface_can_have_as_its_mac_is_refused(mac: str) -> None:
    with pytest.raises(CniError, match=f"invalid mac '{mac}'") as caught:
        wish({"MAC": mac})
    assert caught.value.code == 7


def test_unknown_args_are_all_named() -> None:
    with pytest.raises(CniError, match=r"unknown args \[COLOUR, SIZE\].*IgnoreUnknown=1") as caught:
        wish({"SIZE": "1", "COLOUR": "red", "IP": "10.22.0.5"})
    assert caught.value.code == 4


@pytest.mark.parametrize("yes", ["1", "true", "True"])
def test_unknown_args_are_passed_over_when_the_runtime_says_so(yes: str) -> None:
    """What containerd and CRI-O send for each pod."""
    args = {"IgnoreUnknown": yes, "K8S_POD_NAME": "web", "K8S_POD_NAMESPACE": "default", "IP": "10.22.0.5"}
    assert wish(args).ips == ("10.22.0.5",)


@pytest.mark.parametrize("no", ["0", "false", ""])
def test_unknown_args_are_refused_when_the_runtime_says_they_matter(no: str) -> None:
    with pytest.raises(CniError, match="K8S_POD_NAME"):
        wish({"IgnoreUnknown": no, "K8S_POD_NAME": "web"})


def test_an_arg_written_in_small_letters_is_never_silently_passed_over() -> None:
    try:
        found = wish({"ip": "10.22.0.5"})
    except CniError as error:
        assert "ip" in error.msg
    else:
        assert found.ips == ("10.22.0.5",)


def test_what_an_address_looks_like_is_for_a_foreign_ipam_to_say() -> None:
    """`static` takes a list in one IP=."""
    assert wish({"IP": "10.22.0.5/24,fd00::5/64"}, ipam={"type": "static"}).mac == ""
