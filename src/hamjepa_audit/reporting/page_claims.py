"""Entries of the page, one per claim: verdict, evidence, seeds, and a small picture."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hamjepa_audit.params.audit import AuditParams
from hamjepa_audit.reporting.audit_tables import seeds_text
from hamjepa_audit.reporting.formatting import (
    ABSENT,
    Row,
    interval_text,
    mean_sd_n,
    number,
    quantity,
)
from hamjepa_audit.reporting.names import metric_title, with_readout
from hamjepa_audit.reporting.page_evidence import (
    of_difference,
    of_number,
    of_statement,
    only_direction,
)
from hamjepa_audit.reporting.pictures import Picture, picture
from hamjepa_audit.statistics.decision_tables import Verdict
from hamjepa_audit.statistics.seeds import SeedTable
from hamjepa_audit.statistics.statements import BETWEEN_PARTS, BETWEEN_READINGS
from hamjepa_audit.statistics.summaries import interval

KINDS = {
    "difference": "Differences between arms",
    "statement": "Statements in words",
    "number": "Reported numbers",
}
"""The kinds of claims with their headings, the most important first."""


class Seed(NamedTuple):
    """The measurements of one seed as texts, one per column."""

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
    paper_note: str
    ours: str
    verdict: Verdict
    reason: str
    needed: str
    source: str
    carried: str
    note: str
    by_construction: bool
    evidence: tuple[tuple[str, str], ...]
    parts: tuple[str, ...] = ()
    other_readings: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    seeds: tuple[Seed, ...] = ()
    picture: Picture | None = None

    @property
    def slug(self) -> str:
        """The verdict as a class name: 'not-reproduced'."""
        return slug(self.verdict)

    @property
    def run(self) -> bool:
        """Whether there are results of ours to show."""
        return self.verdict != Verdict.NOT_RUN


class Group(NamedTuple):
    """The claims of one kind on one study and number of epochs."""

    kind: str
    study: str
    epochs: int
    entries: tuple[Entry, ...]

    @property
    def anchor(self) -> str:
        """The anchor of the group on the page."""
        return f"claims-{self.study}-e{self.epochs}-{self.kind}"

    @property
    def counts(self) -> list[tuple[Verdict, int]]:
        """The number of entries for each verdict that occurs, in the order of the verdicts."""
        return counted(self.entries)

    @property
    def run(self) -> bool:
        """Whether any entry has runs."""
        return any(entry.run for entry in self.entries)


class Titles(NamedTuple):
    """The titles of studies and arms; one without a title is called by its name."""

    studies: dict[str, str]
    arms: dict[str, str]

    def study(self, name: str) -> str:
        """A study's title."""
        return self.studies.get(name, name)

    def arm(self, name: str) -> str:
        """An arm's title."""
        return self.arms.get(name, name)

    def side(self, arm: str, readout: str) -> str:
        """An arm and readout as text, 'HamJEPA q'; only the arm if its state is read out whole."""
        return with_readout(self.arm(arm), readout)


def slug(text: str) -> str:
    """A name for an anchor or a class, which has only lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def counted(entries: Sequence[Entry]) -> list[tuple[Verdict, int]]:
    """The number of entries for each verdict that occurs, in the order of the verdicts."""
    counts = Counter(entry.verdict for entry in entries)
    return [(verdict, counts[verdict]) for verdict in Verdict if counts[verdict]]


def grouped(entries: Sequence[Entry], studies: Sequence[str]) -> list[Group]:
    """Groups entries by study (`studies` first), epochs and kind (in the order of KINDS)."""
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
    """Makes entries from the rows of the tables of verdicts."""

    def __init__(self, seeds: SeedTable, titles: Titles, params: AuditParams) -> None:
        self._seeds, self._titles, self._params = seeds, titles, params

    def numbers(self, claims: pd.DataFrame) -> Iterator[Entry]:
        """Yields the entries of the rows of the table `claims`."""
        for row in claims.to_dict("records"):
            side = (row["arm"], row["readout"])
            where = (row["study"], row["epochs"], *side, row["our_metric"])
            values = self._seeds.values(*where)
            title = self._titles.side(*side)
            yield self._entry(
                row,
                kind="number",
                arms=(row["arm"],),
                heading=f"{title}: {metric_title(row['metric'])}",
                ours=mean_sd_n(row["mean"], row["sd"], row["n"], row["unit"]),
                evidence=tuple(of_number(row, self._params)),
                columns=(title,),
                seeds=_rows(row["unit"], values),
                picture=self._picture(row, values, row["mean"]),
            )

    def differences(self, claims: pd.DataFrame) -> Iterator[Entry]:
        """Yields the entries of the rows of the table `claim_differences`."""
        for row in claims.to_dict("records"):
            sides = [row[side].rpartition("_")[::2] for side in ("minuend", "subtrahend")]
            where = (row["study"], row["epochs"], row["our_metric"])
            pairs = self._seeds.pairs(*where, *sides)
            titles = [self._titles.side(*side) for side in sides]
            yield self._entry(
                row,
                kind="difference",
                arms=tuple(dict.fromkeys(arm for arm, _ in sides)),
                heading=f"{titles[0]} − {titles[1]}: {metric_title(row['metric'])}",
                ours=mean_sd_n(row["mean_difference"], row["sd"], row["n"], row["unit"]),
                evidence=tuple(of_difference(row, self._params)),
                columns=(*titles, "Difference"),
                seeds=_rows(row["unit"], *pairs, pairs.differences),
                picture=self._picture(row, pairs.differences, row["mean_difference"], zero=True),
            )

    def statements(self, claims: pd.DataFrame) -> Iterator[Entry]:
        """Yields the entries of the rows of the table `statements`."""
        for row in claims.to_dict("records"):
            columns = ("says", "found", "other_readings", "reason")
            words = " ".join(row[name] for name in columns).lower()
            mentioned = (arm for arm in self._titles.arms if re.search(rf"\b{arm}\b", words))
            yield self._entry(
                row | {"claim": f"{row['study']}-e{row['epochs']}-{row['statement']}"},
                kind="statement",
                arms=tuple(mentioned),
                heading=row["says"],
                ours=quantity(row["n"], "seed") if row["n"] else ABSENT,
                evidence=tuple(of_statement(row)),
                parts=_split(row["found"], BETWEEN_PARTS),
                other_readings=_split(row["other_readings"], BETWEEN_READINGS),
            )

    def _entry(self, row: Row, **own: Any) -> Entry:
        paper = carried = ""
        if "paper" in row:
            paper = mean_sd_n(row["paper"], row["paper_sd"], row["paper_n"], row["unit"])
        if row.get("carried"):
            title = self._titles.study(row["paper_study"])
            carried = f"{title}, {row['paper_epochs']} epochs"
        return Entry(
            anchor=f"claim-{slug(str(row['claim']))}-{slug(str(row['study']))}-e{row['epochs']}",
            study=str(row["study"]),
            epochs=int(row["epochs"]),
            paper=paper,
            verdict=Verdict(row["verdict"]),
            reason=str(row["reason"]),
            needed=seeds_text(row),
            source=str(row["source"]),
            carried=carried,
            paper_note=str(row.get("paper_note", "")),
            note=str(row.get("note", "")),
            by_construction=bool(row.get("by_construction", False)),
            **own,
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
        with_interval = "" if np.isnan(bounds[0]) else f" {interval_text(*bounds, unit)}"
        described = (
            f"Paper {number(row['paper'], unit)}, ours {number(mean, unit)}{with_interval}, "
            f"{quantity(len(values), 'seed')}"
        )
        sample = [float(value) for value in values]
        margin = None if only_direction(row) else row["margin"]
        return picture(described, row["paper"], float(reach), margin, sample, bounds, zero)


def _split(text: str, separator: str) -> tuple[str, ...]:
    return tuple(text.split(separator)) if text else ()


def _rows(unit: str, *columns: "pd.Series[float]") -> tuple[Seed, ...]:
    return tuple(
        Seed(int(seed), tuple(number(float(column[seed]), unit) for column in columns))
        for seed in columns[0].index
    )
