"""Paths and neighborhoods in a knowledge graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

Triple = tuple[str, str, str]
"""Head, relation and tail."""

_HOPS = 4
"""Maximum length of a path, in triples: CWQ's questions have up to 4 hops (RoG, arXiv
2310.01061)."""


def paths_and_nearest(
    triples: Sequence[Triple], starts: Sequence[str], ends: Sequence[str]
) -> tuple[list[Triple], list[Triple]]:
    """Return the triples on shortest paths between entities, and all triples, nearest first.

    Args:
        triples: The graph.
        starts: Start entities.
        ends: Target entities.

    Returns:
        The triples on all shortest undirected paths of at most 4 hops from each start to each
        end, and all triples sorted by their distance from the starts, unreachable ones last.
    """
    links: dict[str, list[Triple]] = {}
    for triple in triples:
        for entity in {triple[0], triple[2]}:
            links.setdefault(entity, []).append(triple)
    distances = _distances(links, starts)
    nearest = sorted(
        triples,
        key=lambda triple: min(distances.get(end, math.inf) for end in (triple[0], triple[2])),
    )
    found = {triple for entity in starts for triple in _on_shortest_paths(links, entity, ends)}
    return [triple for triple in triples if triple in found], nearest


def _distances(links: Mapping[str, Sequence[Triple]], starts: Iterable[str]) -> dict[str, int]:
    """Return the number of hops from the nearest start to each reachable entity."""
    distances = dict.fromkeys((entity for entity in starts if entity in links), 0)
    reached = list(distances)
    for entity in reached:
        for head, _, tail in links[entity]:
            for other in (head, tail):
                if other not in distances:
                    distances[other] = distances[entity] + 1
                    reached.append(other)
    return distances


def _on_shortest_paths(
    links: Mapping[str, Sequence[Triple]], start: str, ends: Iterable[str]
) -> set[Triple]:
    """Return all triples on all shortest paths from one entity to each of the others."""
    distances = _distances(links, [start])
    levels: list[set[str]] = [set() for _ in range(_HOPS + 1)]
    for entity in ends:
        if distances.get(entity, math.inf) <= _HOPS:
            levels[distances[entity]].add(entity)
    found: set[Triple] = set()
    for hops in range(_HOPS, 0, -1):
        for entity in levels[hops]:
            for triple in links[entity]:
                other = triple[0] if triple[2] == entity else triple[2]
                if distances[other] == hops - 1:
                    found.add(triple)
                    levels[hops - 1].add(other)
    return found
