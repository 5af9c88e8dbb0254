"""Paths and neighborhoods in a knowledge graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter

Triple = Sequence[str]
"""Head, relation and tail."""

_HOPS = 4
"""Maximum length of a path, in triples: CWQ's questions have up to 4 hops (RoG, arXiv
2310.01061)."""


def paths_and_nearest(
    triples: Sequence[Triple], starts: Sequence[str], ends: Sequence[str]
) -> tuple[list[Triple], Iterator[Triple]]:
    """Return the triples on shortest paths between entities, and all triples, nearest first.

    Triples are scanned once per hop, without an index of the graph: most answers are one or two
    hops away, and few triples are shown.

    Args:
        triples: The graph.
        starts: Start entities.
        ends: Target entities.

    Returns:
        The triples on all shortest undirected paths of at most 4 hops from each start to each
        end, and an iterator over all triples by their distance from the starts, unreachable ones
        last.
    """
    # Unlike `zip`, this does not visit the memory of each triple three times.
    heads, tails = list(map(itemgetter(0), triples)), list(map(itemgetter(2), triples))
    found = {n for start in starts for n in _on_shortest_paths(heads, tails, start, ends)}
    nearest = (triples[number] for number in _nearest(heads, tails, starts))
    return [triples[number] for number in sorted(found)], nearest


def _nearest(heads: Sequence[str], tails: Sequence[str], starts: Sequence[str]) -> Iterator[int]:
    """Yield the numbers of all triples by the number of hops from the nearest start."""
    known, frontier = set(starts), set(starts)
    left = dict.fromkeys(range(len(heads)))
    while frontier:
        level = [n for n in left if heads[n] in frontier or tails[n] in frontier]
        yield from level
        for number in level:
            del left[number]
        frontier = {entity for n in level for entity in (heads[n], tails[n])} - known
        known |= frontier
    yield from left


def _on_shortest_paths(
    heads: Sequence[str], tails: Sequence[str], start: str, ends: Sequence[str]
) -> set[int]:
    """Return the numbers of all triples on all shortest paths from one entity to the others."""
    distances = {start: 0}
    frontier, wanted = {start}, set(ends)
    for hops in range(1, _HOPS + 1):
        if not frontier or wanted <= distances.keys():
            break
        reached = {tail for head, tail in zip(heads, tails) if head in frontier}
        reached.update(head for head, tail in zip(heads, tails) if tail in frontier)
        frontier = reached - distances.keys()
        distances.update(dict.fromkeys(frontier, hops))
    levels: list[set[str]] = [set() for _ in range(_HOPS + 1)]
    for entity in wanted & distances.keys():
        levels[distances[entity]].add(entity)
    found: set[int] = set()
    for hops in range(_HOPS, 0, -1):
        here = levels[hops]
        pairs = enumerate(zip(heads, tails)) if here else ()
        for number in [n for n, (head, tail) in pairs if head in here or tail in here]:
            head, tail = heads[number], tails[number]
            for entity, other in ((head, tail), (tail, head)):
                if entity in here and distances.get(other) == hops - 1:
                    found.add(number)
                    levels[hops - 1].add(other)
    return found
