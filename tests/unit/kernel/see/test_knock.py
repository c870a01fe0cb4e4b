"""What a knock lets go of when it cannot be made."""

from __future__ import annotations

import socket

import pytest

from cni_plugin.kernel.see.knock import Knock


def test_who_may_have_no_raw_socket_keeps_no_other_one_open(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []

    class Honest(socket.socket):
        def __init__(self, family: int, kind: int, protocol: int = 0) -> None:
            if kind & socket.SOCK_RAW == socket.SOCK_RAW:
                raise PermissionError
            super().__init__(family, kind, protocol)
            made.append(self)

    monkeypatch.setattr(socket, "socket", Honest)
    with pytest.raises(PermissionError):
        Knock("", "127.0.0.1", "127.0.0.1")
    assert [each.fileno() for each in made] == [-1]
