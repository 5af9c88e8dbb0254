"""Paths and neighborhoods in a knowledge graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

Triple = Sequence[str]
"""Head, relation and tail."""

_Numbers = NDArray[np.intp]
_HOPS = 4
"""Maximum length of a path, in triples: CWQ's questions have up to 4 hops (RoG, arXiv
2310.01061)."""
_FAR = np.iinfo(np.intp).max
"""Distance of what cannot be reached."""


def paths_and_nearest(
    triples: Sequence[Triple], starts: Sequence[str], ends: Sequence[str]
) -> tuple[list[Triple], Iterator[Triple]]:
    """Return the triples on shortest paths between entities, and all triples, nearest first.

    Args:
        triples: The graph.
        starts: Start entities.
        ends: Target entities.

    Returns:
        The triples on all shortest undirected paths of at most 4 hops from each start to each
        end, and an iterator over all triples by their distance from the starts, unreachable ones
        last.
    """
    names = [*map(itemgetter(0), triples), *map(itemgetter(2), triples)]
    number = {name: n for n, name in enumerate(dict.fromkeys(names))}
    links = np.fromiter(map(number.__getitem__, names), np.intp, len(names)).reshape(2, -1)
    first, last = ([number[name] for name in part if name in number] for part in (starts, ends))
    found = np.zeros(len(triples), dtype=bool)
    for start in first:
        found |= _on_shortest_paths(links, _distances(links, len(number), [start], _HOPS), last)
    near = _distances(links, len(number), first)[links].min(axis=0)
    order = np.argsort(near, kind="stable").tolist()
    return [triples[n] for n in np.flatnonzero(found).tolist()], (triples[n] for n in order)


def _distances(
    links: _Numbers, entities: int, starts: Iterable[int], most: float = float("inf")
) -> _Numbers:
    """Return the number of hops from the nearest start to each entity, up to a maximum."""
    distances = np.full(entities, _FAR)
    distances[list(starts)] = 0
    hops = 0
    while hops < most and (distances == hops).any():
        near = distances[links] == hops
        reached = links[::-1][near]
        hops += 1
        distances[reached[distances[reached] == _FAR]] = hops
    return distances


def _on_shortest_paths(links: _Numbers, distances: _Numbers, ends: Sequence[int]) -> NDArray[Any]:
    """Return which triples are on shortest paths from where distances are 0 to the ends."""
    found = np.zeros(links.shape[1], dtype=bool)
    passed = np.zeros(len(distances), dtype=bool)
    passed[list(ends)] = True
    for hops in range(_HOPS, 0, -1):
        # Each column is a link in both directions: away from the start, and towards it.
        far, near = passed[links] & (distances[links] == hops), distances[links] == hops - 1
        here = far & near[::-1]
        found |= here.any(axis=0)
        passed[links[::-1][here]] = True
    return found
