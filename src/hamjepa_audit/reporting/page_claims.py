"""Every claim as an entry of the page: verdict, evidence, seeds, and a small picture."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd

from hamjepa_audit.params.audit import AuditParams
from hamjepa_audit.reporting.audit_tables import Row, seeds_text
from hamjepa_audit.reporting.formatting import (
    ABSENT,
    interval_text,
    mean_sd_n,
    number,
    p_value,
)
from hamjepa_audit.reporting.names import metric_title
from hamjepa_audit.reporting.pictures import Picture, picture
from hamjepa_audit.statistics.seeds import SeedTable
from hamjepa_audit.statistics.statements import BETWEEN_PARTS, BETWEEN_READINGS
from hamjepa_audit.statistics.summaries import interval
from hamjepa_audit.statistics.verdicts import Verdict

KINDS = {
    "difference": "Differences between arms",
    "statement": "What the paper says in words",
    "number": "Numbers that the paper reports",
}
"""Kinds of claims, the most important first, and what they are called."""


class Seed(NamedTuple):
    """What one seed measured, a text a column."""

    seed: int
    values: tuple[str, ...]


class Entry(NamedTuple):
    """One claim on the page."""

    anchor: str
    kind: str
    study: str
    epochs: int
    arms: tuple[str, ...]
    heading: str
    paper: str
    ours: str
    verdict: Verdict
    reason: str
    needed: str
    source: str
    carried: str
    note: str
    parts: tuple[str, ...]
    other_readings: tuple[str, ...]
    evidence: tuple[tuple[str, str], ...]
    columns: tuple[str, ...]
    seeds: tuple[Seed, ...]
    picture: Picture | None

    @property
    def slug(self) -> str:
        """The verdict as a class name: 'not-reproduced'."""
        return slug(self.verdict)

    @property
    def run(self) -> bool:
        """Whether there is anything of ours to show."""
        return self.verdict != Verdict.NOT_RUN


class Group(NamedTuple):
    """The claims of one kind on one study and number of epochs."""

    kind: str
    study: str
    epochs: int
    entries: tuple[Entry, ...]

    @property
    def anchor(self) -> str:
        """Where the page has them."""
        return f"claims-{self.study}-e{self.epochs}-{self.kind}"

    @property
    def counts(self) -> list[tuple[Verdict, int]]:
        """How many have each verdict that occurs, in the verdicts' order."""
        return counted(self.entries)

    @property
    def run(self) -> bool:
        """Whether any of them has runs."""
        return any(entry.run for entry in self.entries)


class Titles(NamedTuple):
    """How studies and arms are called; one that is not known is called by its name."""

    studies: dict[str, str]
    arms: dict[str, str]

    def study(self, name: str) -> str:
        """A study's title."""
        return self.studies.get(name, name)

    def arm(self, name: str) -> str:
        """An arm's title."""
        return self.arms.get(name, name)

    def side(self, arm: str, readout: str) -> str:
        """'HamJEPA q'; the arm alone if its state is read out as a whole."""
        return self.arm(arm) if readout == "all" else f"{self.arm(arm)} {readout}"


def slug(text: str) -> str:
    """Letters, digits and hyphens alone: a name for an anchor or a class."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def counted(entries: Sequence[Entry]) -> list[tuple[Verdict, int]]:
    """How many entries have each verdict that occurs, in the verdicts' order."""
    counts = Counter(entry.verdict for entry in entries)
    return [(verdict, counts[verdict]) for verdict in Verdict if counts[verdict]]


def grouped(entries: Sequence[Entry], studies: Sequence[str]) -> list[Group]:
    """Entries by study, epochs and kind: `studies` first, then the others; kinds as in KINDS."""
    order = list(dict.fromkeys([*studies, *(entry.study for entry in entries)]))
    kinds = list(KINDS)

    def key(entry: Entry) -> tuple[int, int, int]:
        return order.index(entry.study), entry.epochs, kinds.index(entry.kind)

    groups: dict[tuple[int, int, int], list[Entry]] = {}
    for entry in sorted(entries, key=key):
        groups.setdefault(key(entry), []).append(entry)
    return [
        Group(kinds[kind], order[study], epochs, tuple(members))
        for (study, epochs, kind), members in groups.items()
    ]


class Entries:
    """Makes entries of the rows of the tables of verdicts."""

    def __init__(self, seeds: SeedTable, titles: Titles, params: AuditParams) -> None:
        self._seeds, self._titles, self._params = seeds, titles, params

    def numbers(self, claims: pd.DataFrame) -> Iterator[Entry]:
        """Of the table `claims`."""
        for row in claims.to_dict("records"):
            side = (row["arm"], row["readout"])
            values = self._values(row, *side)
            title = self._titles.side(*side)
            yield self._entry(
                row,
                kind="number",
                arms=(row["arm"],),
                heading=f"{title}: {metric_title(row['metric'])}",
                ours=mean_sd_n(row["mean"], row["sd"], row["n"], row["unit"]),
                evidence=tuple(self._of_number(row)),
                columns=(title,),
                seeds=_rows(row["unit"], values),
                picture=self._picture(row, values, row["mean"]),
            )

    def differences(self, claims: pd.DataFrame) -> Iterator[Entry]:
        """Of the table `claim_differences`."""
        for row in claims.to_dict("records"):
            sides = [row[side].rpartition("_")[::2] for side in ("minuend", "subtrahend")]
            values = [self._values(row, *side) for side in sides]
            common = values[0].index.intersection(values[1].index)
            pairs = [side.loc[common] for side in values]
            titles = [self._titles.side(*side) for side in sides]
            difference = pairs[0] - pairs[1]
            yield self._entry(
                row,
                kind="difference",
                arms=tuple(dict.fromkeys(arm for arm, _ in sides)),
                heading=f"{titles[0]} − {titles[1]}: {metric_title(row['metric'])}",
                ours=mean_sd_n(row["mean_difference"], row["sd"], row["n"], row["unit"]),
                evidence=tuple(self._of_difference(row)),
                columns=(*titles, "Difference"),
                seeds=_rows(row["unit"], *pairs, difference),
                picture=self._picture(row, difference, row["mean_difference"], zero=True),
            )

    def statements(self, claims: pd.DataFrame) -> Iterator[Entry]:
        """Of the table `statements`."""
        for row in claims.to_dict("records"):
            told = ("says", "found", "other_readings", "reason")
            words = " ".join(row[name] for name in told).lower()
            mentioned = (arm for arm in self._titles.arms if re.search(rf"\b{arm}\b", words))
            evidence = [
                ("Every part holds: p", _with_holm(row, "p_holds")),
                ("Some part fails: p", _with_holm(row, "p_fails")),
            ]
            yield self._entry(
                row | {"claim": f"{row['study']}-e{row['epochs']}-{row['statement']}"},
                kind="statement",
                arms=tuple(mentioned),
                heading=row["says"],
                ours=f"{row['n']} seeds" if row["n"] else ABSENT,
                evidence=tuple(evidence) if row["n"] else (),
                parts=_split(row["found"], BETWEEN_PARTS),
                other_readings=_split(row["other_readings"], BETWEEN_READINGS),
            )

    def _values(self, row: Row, arm: str, readout: str) -> "pd.Series[float]":
        where = (row["study"], row["epochs"], arm, readout, row["our_metric"])
        return self._seeds.values(*where)

    def _entry(self, row: Row, **own: Any) -> Entry:
        unit = row.get("unit", "")
        measured = "paper" in row
        carried = ""
        if row.get("carried"):
            title = self._titles.study(row["paper_study"])
            carried = f"{title}, {row['paper_epochs']} epochs"
        nothing: dict[str, Any] = {
            "parts": (),
            "other_readings": (),
            "columns": (),
            "seeds": (),
            "picture": None,
            "paper": mean_sd_n(row["paper"], row["paper_sd"], row["paper_n"], unit)
            if measured
            else "",
            "needed": seeds_text(row),
        }
        fields = nothing | own
        return Entry(
            anchor=f"claim-{slug(str(row['claim']))}-{slug(str(row['study']))}-e{row['epochs']}",
            study=str(row["study"]),
            epochs=int(row["epochs"]),
            verdict=Verdict(row["verdict"]),
            reason=str(row["reason"]),
            source=str(row["source"]),
            carried=carried,
            note=str(row.get("note", "")),
            **fields,
        )

    def _picture(
        self, row: Row, values: "pd.Series[float]", mean: float, zero: bool = False
    ) -> Picture | None:
        if values.empty:
            return None
        confidence = self._params.confidence
        spread, n, unit = row["paper_sd"], row["paper_n"], row["unit"]
        _, reach = interval(0.0, spread, n, confidence)
        bounds = (row["ci_low"], row["ci_high"])
        described = (
            f"Paper {number(row['paper'], unit)}, ours {number(mean, unit)} "
            f"{interval_text(*bounds, unit)}, {len(values)} seeds"
        )
        sample = [float(value) for value in values]
        return picture(described, row["paper"], float(reach), row["margin"], sample, bounds, zero)

    def _of_number(self, row: Row) -> Iterator[tuple[str, str]]:
        if not row["n"]:
            return
        yield from self._of_any(row)
        yield f"Against the paper's value: {row['test']}", _statistic(row, "p")
        yield "Could the paper's runs have been ours? p", _with_holm(row, "p_new_runs")
        yield from self._needed(row)

    def _of_difference(self, row: Row) -> Iterator[tuple[str, str]]:
        if not row["n"]:
            return
        yield from self._of_any(row)
        yield "Paired t-test of no difference", _statistic(row, "p")
        yield "Exact sign-flip test: p", p_value(row["p_sign_flip"])
        yield "Exact Wilcoxon signed-rank test: p", p_value(row["p_wilcoxon"])
        yield "Against the paper's value: p", p_value(row["p_paper"])
        yield "Could the paper's runs have been ours? p", _with_holm(row, "p_new_runs")
        yield "Below the margin in the paper's direction: p", _with_holm(row, "p_below_margin")
        bounds = [number(row[name], "") for name in ("hedges_g", "g_low", "g_high")]
        yield "Effect size, Hedges g", f"{bounds[0]} [{bounds[1]}, {bounds[2]}]"
        yield "Probability of improvement", number(row["probability_of_improvement"], "")
        yield from self._needed(row)

    def _of_any(self, row: Row) -> Iterator[tuple[str, str]]:
        share = f"{100 * self._params.confidence:g}%"
        yield f"{share} interval of our mean", _interval(row, "ci_low", "ci_high")
        yield f"{share} interval of one more seed", _interval(row, "new_seed_low", "new_seed_high")
        yield "Ours minus the paper's", number(row["deviation"], row["unit"])
        yield (
            f"Equivalence within ±{number(row['margin'], row['unit'])} (TOST): p",
            _with_holm(row, "p_equivalence"),
        )

    def _needed(self, row: Row) -> Iterator[tuple[str, str]]:
        power = f"{100 * self._params.power:g}%"
        found = number(row["detectable"], row["unit"])
        yield f"Smallest difference that {row['n']} seeds find with {power} power", found
        if text := seeds_text(row):
            yield f"Seeds that would settle it with {power} power, if our mean is right", text


def _split(text: str, separator: str) -> tuple[str, ...]:
    return tuple(text.split(separator)) if text else ()


def _rows(unit: str, *columns: "pd.Series[float]") -> tuple[Seed, ...]:
    return tuple(
        Seed(int(seed), tuple(number(float(column[seed]), unit) for column in columns))
        for seed in columns[0].index
    )


def _interval(row: Row, low: str, high: str) -> str:
    return interval_text(row[low], row[high], row["unit"])


def _statistic(row: Row, name: str) -> str:
    p = _with_holm(row, name)
    return f"t = {number(row['t'], '')}, p {p if p.startswith('<') else f'= {p}'}"


def _with_holm(row: Row, name: str) -> str:
    """'0.0123 (0.0246 after Holm)'; the p-value alone where its family has no other."""
    p, adjusted = p_value(row[name]), p_value(row[f"{name}_holm"])
    return p if p == adjusted else f"{p} ({adjusted} after Holm)"
