"""Paths and neighbourhoods in a knowledge graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

Triple = tuple[str, str, str]
"""Head, relation and tail."""

_HOPS = 4
"""The longest path whose triples count, in triples."""


def paths_and_nearest(
    triples: Sequence[Triple], starts: Sequence[str], ends: Sequence[str]
) -> tuple[list[Triple], list[Triple]]:
    """The triples that lead from some entities to others, and all triples, nearest first.

    Args:
        triples: The graph.
        starts: Entities to start from.
        ends: Entities to reach.

    Returns:
        The triples on all shortest undirected paths, of 4 hops at most, from each start to each
        end; and all of them, breadth first from the starts, those out of reach last.
    """
    links: dict[str, list[Triple]] = {}
    for triple in triples:
        for entity in {triple[0], triple[2]}:
            links.setdefault(entity, []).append(triple)
    away = _distances(links, starts)
    nearest = sorted(
        triples, key=lambda triple: min(away.get(end, math.inf) for end in (triple[0], triple[2]))
    )
    found = {triple for entity in starts for triple in _on_shortest_paths(links, entity, ends)}
    return [triple for triple in triples if triple in found], nearest


def _distances(links: Mapping[str, Sequence[Triple]], starts: Iterable[str]) -> dict[str, int]:
    """Hops to each entity from the nearest of some others."""
    away = dict.fromkeys((entity for entity in starts if entity in links), 0)
    reached = list(away)
    for entity in reached:
        for head, _, tail in links[entity]:
            for other in (head, tail):
                if other not in away:
                    away[other] = away[entity] + 1
                    reached.append(other)
    return away


def _on_shortest_paths(
    links: Mapping[str, Sequence[Triple]], start: str, ends: Iterable[str]
) -> set[Triple]:
    """All triples on all shortest paths from one entity to each of some others."""
    away = _distances(links, [start])
    levels: list[set[str]] = [set() for _ in range(_HOPS + 1)]
    for entity in ends:
        if away.get(entity, math.inf) <= _HOPS:
            levels[away[entity]].add(entity)
    found: set[Triple] = set()
    for hops in range(_HOPS, 0, -1):
        for entity in levels[hops]:
            for triple in links[entity]:
                other = triple[0] if triple[2] == entity else triple[2]
                if away[other] == hops - 1:
                    found.add(triple)
                    levels[hops - 1].add(other)
    return found
