"""The parts of a node, found by their files: one list for the agent's loop, `tullectl repair`, `diff` and `doctor`.

    in_turn(parts(), ALL, take)    each in its order, and again whom the others' work concerns
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

from cni_plugin.kernel.watch.changed import Changed
from cni_plugin.node.contract import Part
from cni_plugin.rooms import tenants

_ROUNDS = 3
"""How often a part is asked, as long as others go on putting right what concerns it."""


def parts() -> list[Part]:
    """One of each, made anew, in their order."""
    made: list[Part] = [module.Part() for module in tenants("node") if _has_part(module)]
    return sorted(made, key=lambda each: each.ORDER)


def in_turn(them: Sequence[Part], changed: Changed, take: Callable[[Part, Changed], bool]) -> None:
    """Let each of them look at what changed and concerns it; `take` says whether something was put right."""
    concerned = {each.NAME: changed for each in them}
    for _ in range(_ROUNDS):
        for part in them:
            mine = concerned.pop(part.NAME, 0)
            if mine & part.ON and take(part, mine) and part.CAUSES:
                others = (each.NAME for each in them if each is not part)
                concerned.update({name: concerned.get(name, 0) | part.CAUSES for name in others})


def _has_part(module: ModuleType) -> bool:
    """Whether it has one of its own; the contract only says what one is."""
    found = getattr(module, "Part", Part)
    return found is not Part and found.__module__ == module.__name__
