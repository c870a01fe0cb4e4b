"""What is made on disk has the mode that is documented, whatever umask the runtime has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conformance.nodes import Node
from tests.netns.failure_nodes import conf


def modes(folder: Path) -> dict[str, str]:
    found = [folder, *(each for each in folder.rglob("*") if not each.is_symlink())]
    return {str(each.relative_to(folder)): f"{each.stat().st_mode & 0o777:04o}" for each in found}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o377, 0o777], ids=lambda each: f"{each:03o}")
def test_files_and_folders_have_their_modes_under_any_umask(node: Node, umask: int) -> None:
    node.run_dir.rmdir()
    before = os.umask(umask)
    try:
        node.add(conf(node)).ok()
    finally:
        os.umask(before)
    run = modes(node.run_dir)
    assert {each: mode for each, mode in run.items() if (node.run_dir / each).is_dir()} == dict.fromkeys(
        (".", "attachments", "attachments/net", "networks"), "0700"
    )
    assert {mode for each, mode in run.items() if (node.run_dir / each).is_file()} == {"0600"}
    leases = modes(node.data_dir)
    assert (leases["."], leases["net"], leases["net/.tulle"]) == ("0755", "0755", "0700")
    assert {mode for each, mode in leases.items() if (node.data_dir / each).is_file()} == {"0600"}
