import random

from moco.duplicates.groups import groups_of, members_of


def test_a_chain_of_pairs_is_one_group_named_by_its_smallest():
    assert groups_of([("c", "d"), ("b", "c"), ("x", "y")]) == {"b": "b", "c": "b", "d": "b", "x": "x", "y": "x"}


def test_the_order_of_the_pairs_changes_nothing():
    numbers = random.Random(0)
    pairs = [(f"{numbers.randrange(60):02}", f"{numbers.randrange(60):02}") for _ in range(50)]
    expected = groups_of(pairs)
    for _ in range(5):
        numbers.shuffle(pairs)
        assert groups_of((b, a) for a, b in pairs) == expected


def test_groups_have_their_members():
    assert members_of({"b": "b", "d": "b", "c": "b", "x": "x"}) == {"b": ["b", "c", "d"], "x": ["x"]}


def test_no_pairs_are_no_groups():
    assert groups_of([]) == {}
