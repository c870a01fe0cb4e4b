"""Any sequence of what can happen to a network's directory ends where a simple model of it ends."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ipam.allocator import Allocator
from ipam.errors import DuplicateAllocation, IpamError, PoolExhausted, StoreError
from ipam.store import Owner
from tests.unit.ipam.world import Network, failing_at, killed_at, pod, watching

PODS = st.sampled_from([pod(n, i) for n in "abcdef" for i in ("eth0", "net1")])
CALL = st.integers(1, 70)
IPAM: dict[str, object] = {
    "ranges": [[{"subnet": "10.1.0.0/29"}, {"subnet": "10.1.1.0/29"}], [{"subnet": "fd00:1::/125"}]]}


class Directory(RuleBasedStateMachine):
    """The model is a dictionary from addresses to owners; a kill or a full disk may leave either of two states."""

    def __init__(self) -> None:
        super().__init__()
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.data_dir = Path(tempfile.mkdtemp(prefix="tulle-model-", dir=memory))
        self.network = Network(self.data_dir, IPAM)
        self.boot = 1
        self.model: dict[str, Owner] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.data_dir)

    @property
    def allocator(self) -> Allocator:
        """That of the present boot."""
        return self.network.allocator(f"boot-{self.boot}")

    def holds(self, owner: Owner) -> set[str]:
        return {ip for ip, holder in self.model.items() if holder == owner}

    def learn(self, victim: Owner | None = None) -> None:
        """After a kill: nobody but the victim changed."""
        before, self.model = self.model, self.network.owners()
        kept = [{ip: owner for ip, owner in state.items() if owner != victim} for state in (before, self.model)]
        assert kept[0] == kept[1]

    @rule(owner=PODS)
    def allocate(self, owner: Owner) -> None:
        four = sum("." in ip for ip in self.model)
        six = sum(":" in ip for ip in self.model)
        try:
            leases = self.allocator.allocate(owner)
        except DuplicateAllocation:
            assert self.holds(owner)
        except PoolExhausted:
            assert four == 10 or six == 6
        else:
            assert not self.holds(owner)
            given = {str(lease.address.ip) for lease in leases}
            assert len(given) == 2
            assert not given & set(self.model)
            self.model |= dict.fromkeys(given, owner)

    @rule(owner=PODS)
    def release(self, owner: Owner) -> None:
        assert {str(ip) for ip in self.allocator.release(owner)} == self.holds(owner)
        self.model = {ip: o for ip, o in self.model.items() if o != owner}

    @rule(valid=st.sets(PODS, max_size=8))
    def collect(self, valid: set[Owner]) -> None:
        assert set(self.allocator.collect(valid)) == set(self.model.values()) - valid
        self.model = {ip: o for ip, o in self.model.items() if o in valid}

    @rule(owner=PODS, nth=CALL, operation=st.sampled_from(["allocate", "release"]))
    def killed(self, owner: Owner, nth: int, operation: str) -> None:
        act = getattr(self.allocator, operation)
        try:
            killed_at(nth, functools.partial(act, owner))
        except IpamError:
            pass
        self.learn(victim=owner)

    @rule(valid=st.sets(PODS, max_size=8), nth=CALL)
    def killed_collecting(self, valid: set[Owner], nth: int) -> None:
        killed_at(nth, lambda: self.allocator.collect(valid))
        disk = self.network.owners()
        assert all(disk.get(ip) == owner for ip, owner in self.model.items() if owner in valid)
        self.model = disk

    @rule(owner=PODS, nth=CALL)
    def disk_full(self, owner: Owner, nth: int) -> None:
        try:
            with watching(failing_at(nth)):
                self.allocator.allocate(owner)
        except StoreError:
            assert self.network.owners() == self.model
        except IpamError:
            pass
        self.learn(victim=owner)

    @rule(owner=PODS, last=st.integers(1, 14))
    def reference_adds(self, owner: Owner, last: int) -> None:
        ip = f"10.1.1.{max(last % 8, 1)}" if last > 7 else f"fd00:1::{last}"  # never the network itself
        if ip not in self.model:
            self.network.write_lease(ip, f"{owner.container}\r\n{owner.ifname}", age=60)  # void after a boot
            self.model[ip] = owner

    @rule(owner=PODS)
    def reference_deletes(self, owner: Owner) -> None:
        for ip in self.holds(owner):
            (self.network.path / ip).unlink()
            del self.model[ip]

    @rule(owner=PODS)
    def reboot(self, owner: Owner) -> None:
        self.boot += 1
        if (self.network.path / ".tulle/boot").is_symlink():
            assert self.allocator.release(owner) == ()
            self.model = {}

    @invariant()
    def the_disk_says_what_the_model_says(self) -> None:
        assert self.network.owners() == self.model

    @invariant()
    def looking_says_so_too(self) -> None:
        seen = {str(ip): owner for ip, owner in self.allocator.leases()}
        assert seen == self.model
        for owner in set(self.model.values()):
            assert {str(ip) for ip in self.allocator.find(owner)} == self.holds(owner)


TestDirectory = Directory.TestCase
TestDirectory.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
