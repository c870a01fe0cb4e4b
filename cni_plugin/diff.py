"""The one comparison: what must be done so that `have` becomes `want`.

Pure, and the same for every verb: ADD diffs against nothing, DEL against an empty want, CHECK prints the
result, the reconciler applies it. Operations come out in an order that a kernel accepts: removals from the
leaves inwards, then creations from links outwards. What goes with its link is not removed one by one.

    diff(state([Up("eth0", POD)]), {})  ->  [Op("create", Up("eth0", POD))]
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cni_plugin.model.base import Key, Object, State, Verb


class Op(msgspec.Struct, frozen=True):
    """One step. `was` is the object as it stood before, where there was one."""

    verb: Verb
    object: Object
    was: Object | None = None


def differences(want: Object, have: Object) -> tuple[str, ...]:
    """The fields in which `have` is not as wanted; `""`, 0 and -1 in `want` ask for nothing."""
    if want == have:  # as nearly all do, and a comparison in one is a twentieth of one by fields
        return ()
    if type(want) is not type(have):
        return ("object",)
    return tuple(
        field
        for field in want.__struct_fields__
        if (value := getattr(want, field)) != getattr(have, field)
        and (isinstance(value, bool) or value not in ("", 0, -1))
    )


def diff(want: State, have: State) -> list[Op]:
    """The operations, in order, that turn `have` into `want`."""
    gone = {key for key in have if key not in want}
    changed = {key: differences(want[key], each) for key, each in have.items() if key in want}
    again = {key for key, fields in changed.items() if _must_be_remade(want[key], fields)}
    lost = _with_what_falls(gone | again, have)
    moved = {key for key, fields in changed.items() if "master" in fields}
    survivors = {
        key: each
        for key, each in have.items()
        if key not in lost and not (each.OF_PORT and _falls(each, moved))
    }
    removals = [
        Op("delete", each)
        for key, each in have.items()
        if key in lost and not _falls(each, lost) and not each.COMES_ALONG
    ]
    creations = [
        Op("change", each, survivors[key]) if key in survivors else Op("create", each)
        for key, each in want.items()
        if key not in survivors or changed[key] or (again and not again.isdisjoint(each.refers))
    ]
    removals.sort(key=lambda op: -op.object.RANK)
    creations.sort(key=lambda op: op.object.RANK)
    return removals + creations


def invert(ops: Sequence[Op]) -> list[Op]:
    """The operations that undo `ops`, last first. What cannot or need not be undone is left out (`Object.undone`)."""
    return [back for op in reversed(ops) if (back := _inverse(op)) is not None]


def _must_be_remade(want: Object, fields: Sequence[str]) -> bool:
    return any(field == "object" or field in want.FIXED for field in fields)


def _with_what_falls(lost: set[Key], have: State) -> set[Key]:
    """These, what goes with them, and what goes with that."""
    fallen = lost
    while fallen and len(lost) < len(have):
        fallen = {key for key, each in have.items() if key not in lost and each.holder in lost}
        lost = lost | fallen
    return lost


def _falls(each: Object, lost: set[Key]) -> bool:
    return each.holder in lost


def _inverse(op: Op) -> Op | None:
    if not op.object.undone:
        return None
    if op.verb == "create":
        return Op("delete", op.object)
    if op.verb == "delete":
        return Op("create", op.object)
    if op.was is None:
        return None
    return Op("change", op.was, op.object)
