"""What every kind of object promises to those who handle objects without knowing kinds."""

from __future__ import annotations

import pkgutil
from collections import Counter
from typing import get_args

import pytest

from cni_plugin import model
from cni_plugin.model import every
from cni_plugin.model.base import Object
from cni_plugin.model.every import AnyObject, kinds

KINDS = list(kinds(Object))


def test_each_kind_has_a_place_of_its_own_in_the_order_of_creation() -> None:
    assert [rank for rank, count in Counter(each.RANK for each in KINDS).items() if count > 1] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_says_what_it_is_and_how_it_is_called(kind: type[Object]) -> None:
    assert kind.__doc__
    assert kind.key is not Object.key
    assert kind.words is not Object.words
    assert kind.SPOKEN in ("rtnl", "host", "nft")
    assert set(kind.FIXED) <= set(kind.__struct_fields__)


def test_whatever_was_stored_is_known_again() -> None:
    assert set(get_args(AnyObject)) == set(KINDS)
    assert len({each.__struct_config__.tag for each in KINDS}) == len(KINDS)


def test_no_file_of_kinds_is_forgotten() -> None:
    without = {"base", "every", "words"}
    assert {each.name for each in pkgutil.iter_modules(model.__path__)} - without <= set(vars(every))
