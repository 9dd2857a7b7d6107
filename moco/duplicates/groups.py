"""Pairs joined into groups; all images of a group belong into one split."""

from collections import defaultdict
from collections.abc import Iterable


def groups_of(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Join pairs into groups: what is alike to a third by way of a second is of its group.

    Args:
        pairs: names of two images that are alike; any names, such as sample keys or SHA-256.

    Returns:
        The group of each name that occurs, itself named by the smallest name in it: the same for
        any order of the pairs.
    """
    above: dict[str, str] = {}

    def top(name: str) -> str:
        above.setdefault(name, name)
        while above[name] != name:
            above[name] = name = above[above[name]]  # halves the way, for the next time
        return name

    for one, other in pairs:
        first, second = sorted((top(one), top(other)))
        above[second] = first
    return {name: top(name) for name in sorted(above)}


def members_of(groups: dict[str, str]) -> dict[str, list[str]]:
    """List the names of each group, sorted."""
    members = defaultdict(list)
    for name, group in sorted(groups.items()):
        members[group].append(name)
    return dict(members)
