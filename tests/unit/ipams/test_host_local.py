"""Our own host-local, asked as anybody may ask it: no verb, no request, no runtime."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cni_plugin.attachment import Attachment
from cni_plugin.errors import CniError
from cni_plugin.ipams.contract import Ask
from cni_plugin.ipams.host_local import Conf, LocalLeases, leases

POD = Attachment("pods", "c1", "eth0")


def asked(home: Path, who: Attachment = POD, wanted: tuple[str, ...] = ()) -> LocalLeases:
    return leases(Ask(who, Conf(data_dir=str(home), subnet="10.22.0.0/24"), lambda _: False, wanted=wanted))


def test_who_asks_is_given_an_address_and_holds_it_until_it_is_given_back(tmp_path: Path) -> None:
    assert [each.address for each in asked(tmp_path).preview().ips] == ["10.22.0.2/24"]
    assert [each.address for each in asked(tmp_path).add().ips] == ["10.22.0.2/24"]
    asked(tmp_path).check(["10.22.0.2/24"])
    asked(tmp_path).delete()
    with pytest.raises(CniError, match="does not hold"):
        asked(tmp_path).check(["10.22.0.2/24"])


def test_how_full_it_is_can_be_asked_of_a_network_alone(tmp_path: Path) -> None:
    asked(tmp_path).add()
    (found,) = asked(tmp_path, Attachment("pods", "", "")).usage()
    assert (found.used, found.size) == (1, 253)


@pytest.mark.parametrize("ip", ["10.22.0", "10.22.0.5/33", "here", "10.22.0.0.1"])
def test_a_requested_address_that_does_not_parse_is_refused(tmp_path: Path, ip: str) -> None:
    with pytest.raises(CniError, match=re.escape(f"invalid ips {ip!r}")) as caught:
        asked(tmp_path, wanted=(ip,)).add()
    assert caught.value.code == 7
