"""Tables and a figure of what `run.py` has written.

``python tests/benchmarks/search_quality/report.py FILE [FILE ...] [--out docs/...md] [--figure
FILE.png]``

Medians are over the searches of a family. Intervals are bootstrap 90 %: landscapes are drawn with
repetition, then searches within each, because the searches of one landscape are alike. Ratios and
differences are paired: same landscape, same instances. `mean error` is the score that `recommend`
expects minus the true one.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from landscapes import FAMILIES, VERSION
from run import read

DRAWS = 2000
# Of Student's t, one-sided 5 %, by degrees of freedom up to 30.
_T95 = [6.31, 2.92, 2.35, 2.13, 2.02, 1.94, 1.89, 1.86, 1.83, 1.81, 1.80, 1.78, 1.77, 1.76, 1.75]
_T95 += [1.75, 1.74, 1.73, 1.73, 1.72, 1.72, 1.72, 1.71, 1.71, 1.71, 1.71, 1.70, 1.70, 1.70, 1.70]


def clustered(values, indices, rng, statistic=np.median):
    """Compute a statistic and its bootstrap 90 % interval.

    Args:
        values: One for each search.
        indices: The landscape of each.
        rng: Source of randomness.
        statistic: The statistic, along the last axis.
    """
    groups = defaultdict(list)
    for value, index in zip(values, indices):
        groups[index].append(value)
    groups = [np.array(group, dtype=float) for group in groups.values()]
    draws = []
    for _ in range(DRAWS):
        picked = rng.integers(len(groups), size=len(groups))
        draws.append(
            statistic(np.concatenate([rng.choice(groups[i], len(groups[i])) for i in picked]))
        )
    # Of infinite values no interpolation is possible.
    low, high = np.percentile(draws, [5, 95], method="nearest")
    return float(statistic(np.concatenate(groups))), float(low), float(high)


def shown(found, form, most=None):
    """Format a median and its interval; values above `most` are shown only as greater."""

    def one(value):
        if most is not None and value > most:
            return f"> {most}"
        return "never" if np.isinf(value) else form.format(value)

    middle, low, high = map(one, found)
    return f"{middle} ({low} to {high})"


def ratio(ours, theirs):
    """Return the ratio of two figures; either may be None if it is too large to be known."""
    if ours is None:
        return 1.0 if theirs is None else np.inf
    return 0.0 if theirs is None else ours / theirs


def family_table(records, baseline, rng):
    """Lines of the table of one family, which has `records`."""
    trials = records[0]["trials"]
    pairs = {(r["index"], r["seed"]): r for r in records if r["sampler"] == baseline}
    yield (
        "| sampler | searches | trials to .10 | found .10 / .05 | spend to .10, ratio to "
        f"{baseline} | regret of `recommend` | minus {baseline}'s best trial | regret of best "
        "trial | of the best tried | 90 % interval covers | mean error | pruned per search "
        "| ask, ms |"
    )
    yield "|" + "---|" * 13
    for sampler in sorted({r["sampler"] for r in records}, key=lambda name: name != baseline):
        rows = [r for r in records if r["sampler"] == sampler]
        indices = [r["index"] for r in rows]
        paired = [(r, pairs.get((r["index"], r["seed"]))) for r in rows]
        paired = [(ours, theirs) for ours, theirs in paired if theirs is not None]
        at = [ours["index"] for ours, _ in paired]
        spends = [ratio(a["spend0.10"], b["spend0.10"]) for a, b in paired]
        gaps = [regret(a, "recommended") - regret(b, "best_trial") for a, b in paired]
        found = [np.mean([r[f"hit{t}"] <= trials for r in rows]) for t in ("0.10", "0.05")]
        covered = [r["covered"] for r in rows if r["covered"] is not None]
        errors = [r["error"] for r in rows if r["error"] is not None]
        cells = [
            sampler,
            str(len(rows)),
            shown(clustered([r["hit0.10"] for r in rows], indices, rng), "{:.0f}", trials),
            f"{found[0]:.0%} / {found[1]:.0%}",
            shown(clustered(spends, at, rng), "{:.2f}") if paired else "",
            shown(clustered([regret(r, "recommended") for r in rows], indices, rng), "{:.3f}"),
            shown(clustered(gaps, at, rng, np.mean), "{:+.3f}") if paired else "",
            shown(clustered([regret(r, "best_trial") for r in rows], indices, rng), "{:.3f}"),
            f"{np.median([r['curve'][-1] if r['curve'] else 1.0 for r in rows]):.3f}",
            f"{np.mean(covered):.0%}" if covered else "",
            f"{np.mean(errors):+.3f}" if errors else "",
            f"{np.mean([r['pruned'] for r in rows]):.1f}",
            f"{1000 * np.mean([r['seconds'] for r in rows if r['seconds'] is not None]):.1f}",
        ]
        yield f"| {' | '.join(cells)} |"


def regret(record, key):
    """Return a regret, or 1 (the median feasible allocation's) if no trial ran."""
    return 1.0 if record[key] is None else record[key]


def landscape_table(records, sampler, baseline):
    """Lines for each landscape: is what a sampler recommends worse than TPE's best?"""
    groups = defaultdict(dict)
    for record in records:
        groups[record["index"], record["name"]][record["sampler"], record["seed"]] = record
    yield (
        f"| landscape | searches | regret of {sampler}'s `recommend` | of {baseline}'s best trial "
        "| mean difference ± standard error | worse beyond noise | trials to .10 "
        f"({baseline}'s) |"
    )
    yield "|---|---|---|---|---|---|---|"
    worse = 0
    for (index, name), group in sorted(groups.items()):
        both = [
            (group[sampler, seed], group[baseline, seed])
            for own, seed in group
            if own == sampler and (baseline, seed) in group
        ]
        if not both:
            continue
        ours = np.array([regret(a, "recommended") for a, _ in both])
        theirs = np.array([regret(b, "best_trial") for _, b in both])
        count = len(both)
        mean, error, beyond = compared(ours - theirs)
        worse += beyond
        trials = both[0][0]["trials"]
        hits = [np.median([r["hit0.10"] for r in column]) for column in zip(*both)]
        ours_hit, theirs_hit = (f"> {trials}" if hit > trials else f"{hit:.0f}" for hit in hits)
        yield (
            f"| {name} ({index}) | {count} | {np.median(ours):.3f} | {np.median(theirs):.3f} | "
            f"{mean:+.3f} ± {error:.3f} | {'**yes**' if beyond else 'no'} | "
            f"{ours_hit} ({theirs_hit}) |"
        )
    yield ""
    yield f"Worse beyond noise (one-sided 5 %, each on its own): {worse} of {len(groups)}."


def compared(differences):
    """Return the mean of paired differences, its standard error, and its significance.

    The mean is significant if it is above 0 at the one-sided 5 % level of Student's t.
    """
    differences = np.asarray(differences, dtype=float)
    count, mean = len(differences), float(differences.mean())
    if count < 2:
        return mean, np.inf, False
    error = float(differences.std(ddof=1)) / np.sqrt(count)
    return mean, error, mean > _T95[min(count - 1, len(_T95)) - 1] * error


def share_table(records, plain="AgentTTS"):
    """Return lines on the benefit and cost of agents, by family and agent.

    Differences are to plain AgentTTS on the same landscape and instances. Their standard errors
    are over landscapes' means, as searches of one landscape are alike; where there is a single
    landscape, over its searches. Trials to .10 count one more than there were where there was
    no such allocation.
    """
    yield (
        f"| family | sampler | landscapes, searches | regret of `recommend`, minus {plain}'s | "
        f"trials to .10, minus {plain}'s | landscapes with worse regret beyond noise | with more "
        "trials |"
    )
    yield "|---|---|---|---|---|---|---|"
    names = sorted({r["sampler"] for r in records if r["sampler"].startswith(f"{plain}+")})
    for family in FAMILIES:
        own = {
            (r["index"], r["seed"]): r
            for r in records
            if r["family"] == family and r["sampler"] == plain
        }
        for name in names:
            groups = defaultdict(list)
            for r in records:
                pair = own.get((r["index"], r["seed"]))
                if r["family"] == family and r["sampler"] == name and pair is not None:
                    change = regret(r, "recommended") - regret(pair, "recommended")
                    groups[r["index"]].append((change, r["hit0.10"] - pair["hit0.10"]))
            if not groups:
                continue
            searches = np.concatenate(list(groups.values()))
            means = np.array([np.mean(group, axis=0) for group in groups.values()])
            basis = means if len(means) > 1 else searches
            cells = [family, name, f"{len(groups)}, {len(searches)}"]
            for column, form in enumerate(("+.3f", "+.1f")):
                mean, error, _ = compared(basis[:, column])
                cells.append(f"{mean:{form}} ± {error:{form[1:]}}")
            for column in range(2):
                found = [compared(np.array(group)[:, column])[2] for group in groups.values()]
                cells.append(f"{np.mean(found):.0%}")
            yield f"| {' | '.join(cells)} |"


def draw_figure(records, path):
    """Draw the median regret of the best allocation tried so far, by family."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    families = [f for f in FAMILIES if any(r["family"] == f for r in records)]
    samplers = list(dict.fromkeys(r["sampler"] for r in records))
    figure, axes = pyplot.subplots(
        1, len(families), figsize=(3.6 * len(families), 3.4), squeeze=False, sharey=True
    )
    for axis, family in zip(axes[0], families):
        for position, sampler in enumerate(samplers):
            rows = [r for r in records if r["family"] == family and r["sampler"] == sampler]
            if not rows:
                continue
            trials = rows[0]["trials"]
            curves = np.full((len(rows), trials), np.inf)
            for curve, row in zip(curves, rows):
                curve[: len(row["curve"])] = row["curve"]
                if row["curve"]:
                    curve[len(row["curve"]) :] = row["curve"][-1]
            median = np.median(curves, axis=0)
            axis.plot(
                np.arange(1, trials + 1),
                np.maximum(median, 1e-3),
                label=sampler,
                color=f"C{position}",
                linewidth=2.2 if sampler.startswith("AgentTTS") else 1.2,
            )
        axis.axhline(0.1, color="0.6", linewidth=0.8, linestyle=":")
        axis.set_title(family)
        axis.set_xlabel("trial")
        axis.set_yscale("log")
    axes[0][0].set_ylabel("lowest regret so far, median")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=len(samplers), fontsize=8)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, dpi=120)


def main():
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--baseline", default="TPE")
    parser.add_argument("--sampler", default="AgentTTS", help="of the table by landscape")
    parser.add_argument("--landscapes-of", nargs="*", default=["violating"])
    options = parser.parse_args()
    records = [record for path in options.files for record in read(path)]
    records = [record for record in records if record.get("version") == VERSION]
    if not records:
        parser.error(f"no record of version {VERSION} of the landscapes: run `run.py` first")
    rng = np.random.default_rng(0)
    lines = []
    for family in FAMILIES:
        rows = [r for r in records if r["family"] == family]
        if not rows:
            continue
        places, seeds = len({r["index"] for r in rows}), len({r["seed"] for r in rows})
        lines += [f"### {family.capitalize()}: {places} landscapes, {seeds} seeds", ""]
        lines += [*family_table(rows, options.baseline, rng), ""]
    for family in options.landscapes_of:
        rows = [r for r in records if r["family"] == family]
        if rows:
            lines += [f"### {family.capitalize()}, by landscape", ""]
            lines += [*landscape_table(rows, options.sampler, options.baseline), ""]
    if any(r["sampler"].startswith("AgentTTS+") for r in records):
        lines += ["### The agent's share", "", *share_table(records), ""]
    lines.append(
        f"{records[0]['trials']} trials that ran, {records[0]['instances']} instances; medians "
        "with bootstrap 90 % intervals (landscapes, then searches); differences are means. A "
        "ratio of spends is 0, or never, where only one of the two found such an allocation, "
        "and 1 where neither did."
    )
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    if options.figure:
        draw_figure(records, options.figure)


if __name__ == "__main__":
    main()
