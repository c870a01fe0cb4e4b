"""What is nft's in its own language: operations as the commands of one transaction, and a chain in a listing.

A transaction is told in the order that nftables needs, whatever order the operations come in: rules go before the sets
that they look into and before the chains that they jump to, elements before the chains that their verdicts name; and
all that comes, comes the other way round.

    flush chain inet tulle input4_1         a set of another type takes the place of the one that this chain looks into
    delete set inet tulle peers4_1
    add set inet tulle peers4_1 { ... }
    add element inet tulle peers4_1 { ... }
    add rule inet tulle input4_1 ...
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from cni_plugin.diff import Op
from cni_plugin.kernel.nft.known import COMMENT, HOOK, hook_of
from cni_plugin.model.base import Object
from cni_plugin.model.nft import Chain, Element, SetOrMap, Table, by_set


def commands(ops: Sequence[Op]) -> str:
    """The transaction. Carried out twice it refuses nothing but to delete a set, map or element that is gone."""
    return "\n".join(_lines([op for op in ops if op.verb == "delete"], [op for op in ops if op.verb != "delete"]))


def parsed(listing: str, wanted: Chain) -> Chain:
    """The chain in a listing of it, its rules in the words wanted where they are those wanted."""
    words = {match[1]: rule for rule in wanted.rules if (match := re.search(COMMENT, rule))}
    hook, rules = "", []
    for line in _statements(listing):
        if re.match(HOOK, line):
            hook = wanted.hook if hook_of(line, wanted.table) == hook_of(wanted.hook, wanted.table) else line
        else:
            comment = re.search(COMMENT, line)
            rules.append(words.get(comment[1], line) if comment else line)
    return Chain(wanted.name, hook, tuple(rules), wanted.table)


def _lines(gone: Sequence[Op], made: Sequence[Op]) -> Iterator[str]:
    chains = [op.object for op in gone if isinstance(op.object, Chain)]
    kept = [op.object for op in made if isinstance(op.object, Chain)]
    anew = [op.object for op in made if isinstance(op.object, Chain) and _declared_anew(op)]
    former = [op.was for op in made if isinstance(op.was, Element)]
    yield from (f"add table {each}" for each in dict.fromkeys(_table_of(op) for op in (*gone, *made)))
    for each in kept:
        if each not in anew:
            yield from (f"add {_declaration(each)}", f"flush chain {each.table} {each.name}")
    for each in (*chains, *anew):  # declared without a hook first, so that deleting what is not there is no error
        yield from (f"add chain {each.table} {each.name}", f"flush chain {each.table} {each.name}")
    yield from _of_elements("delete", [*(op.object for op in gone), *former])
    yield from (f"delete {op.object.WORD} {op.object.table} {op.object.name}"
                for op in gone if isinstance(op.object, SetOrMap))
    yield from (f"delete chain {each.table} {each.name}" for each in (*chains, *anew))
    yield from (f"delete table {op.object.name}" for op in gone if isinstance(op.object, Table))
    yield from (f"add {op.object.WORD} {op.object.table} {op.object.name} {{ {op.object.declaration} }}"
                for op in made if isinstance(op.object, SetOrMap))
    yield from (f"add {_declaration(each)}" for each in anew)
    yield from _of_elements("add", [op.object for op in made])
    yield from (f"add rule {each.table} {each.name} {rule}" for each in kept for rule in each.rules)


def _of_elements(verb: str, objects: Iterable[Object]) -> Iterator[str]:
    """A command for all of a set, for each is a list of nft's own to it."""
    for (table, name), found in by_set(objects).items():
        words = (each.pair if verb == "add" else each.value for each in found)
        yield f"{verb} element {table} {name} {{ {', '.join(words)} }}"


def _declaration(each: Chain) -> str:
    hook = f" {{ {each.hook} }}" if each.hook else ""
    return f"chain {each.table} {each.name}{hook}"


def _table_of(op: Op) -> str:
    each = op.object
    if isinstance(each, Table):
        return each.name
    if isinstance(each, Chain | SetOrMap | Element):
        return each.table
    raise TypeError(f"{each!r} is nothing of nft's")


def _declared_anew(op: Op) -> bool:
    """A base chain keeps the hook that it was made with."""
    return isinstance(op.object, Chain) and isinstance(op.was, Chain) and op.was.hook != op.object.hook


def _statements(listing: str) -> Iterator[str]:
    """The lines inside the chain, those that nft broke for their length made whole."""
    statement = ""
    for line in listing.splitlines():
        if line.startswith("\t\t\t") and statement:
            statement += " " + line.strip()
            continue
        if statement:
            yield statement
        statement = line.strip() if line.startswith("\t\t") else ""
    if statement:
        yield statement
