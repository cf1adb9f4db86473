"""The page that presents an audit: one self-contained HTML file."""

import base64
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from hamjepa_audit.bookkeeping.records import Record
from hamjepa_audit.files import write_text
from hamjepa_audit.plans.audit import AuditPlan
from hamjepa_audit.reporting import page_studies
from hamjepa_audit.reporting.formatting import p_value
from hamjepa_audit.reporting.names import metric_title
from hamjepa_audit.reporting.page_claims import (
    KINDS,
    Entries,
    Entry,
    Titles,
    counted,
    grouped,
    slug,
)
from hamjepa_audit.reporting.page_studies import StudyTables, condition_anchor
from hamjepa_audit.reporting.pictures import HEIGHT, WIDTH
from hamjepa_audit.statistics.audit import Audit
from hamjepa_audit.statistics.decision_tables import DECISIONS, Verdict
from hamjepa_audit.statistics.hypothesis_tests import MOST_SIGNS
from hamjepa_audit.statistics.seeds import SeedTable

MINUS = re.compile(r"(?<![\w)])-(?=[\d.∞])")
"""Matches a hyphen that is a minus sign: before a number, and not between two words."""

LITERAL = re.compile(r"``?([^`]+)``?")
"""Matches what captions, which are reStructuredText, set as code: between backticks."""


class PageContent(NamedTuple):
    """The content from which the page is made.

    Attributes:
        plan: the paper's claims and how they were tested.
        tables: the tables of verdicts.
        metrics: all metrics of the studies audited (METRICS_SCHEMA).
        studies: those studies, in the order in which they are shown.
        records: run records by run id.
        titles: the titles of studies and arms.
    """

    plan: AuditPlan
    tables: Audit
    metrics: pd.DataFrame
    studies: Sequence[StudyTables]
    records: Mapping[str, Record]
    titles: Titles


def write_page(content: PageContent, target: Path) -> Path:
    """Writes the page; the same content gives the same bytes.

    Raises:
        UserError: the metrics are unusable (see `SeedTable`), or the file can't be written.
    """
    environment = Environment(
        loader=PackageLoader("hamjepa_audit.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "p_value": p_value,
        "metric_title": metric_title,
        "minus": lambda text: MINUS.sub("−", text),
        "data_uri": _data_uri,
        "slug": slug,
        "split_at_literals": LITERAL.split,  # texts, and between them literals
    }
    write_text(target, environment.get_template("page.html.j2").render(page_context(content)))
    return target


def page_context(content: PageContent) -> dict[str, Any]:
    """The variables of the templates."""
    plan, titles = content.plan, content.titles
    names = [tables.params.name for tables in content.studies]
    in_paper = {claim.study for claim in plan.claims.measurements}
    in_paper |= {claim.study for claim in plan.claims.differences}
    maker = Entries(SeedTable(content.metrics), titles, plan.params)
    entries = [
        *maker.differences(content.tables.claim_differences),
        *maker.statements(content.tables.statements),
        *maker.numbers(content.tables.claims),
    ]
    groups = grouped(entries, names)
    runs = content.metrics[["study", "arm", "epochs", "seed", "run_id"]].drop_duplicates()
    runs = runs.sort_values(["study", "arm", "epochs", "seed"])
    params = [tables.params for tables in content.studies]
    conditions = list(page_studies.conditions(params, runs, content.records, titles))
    return {
        "paper": plan.claims.paper,
        "params": plan.params,
        "titles": titles,
        "studies": [
            page_studies.study(tables, titles, plan.params.minimum_seeds)
            for tables in content.studies
        ],
        "paper_studies": sorted(in_paper),
        "groups": groups,
        "kinds": KINDS,
        "counts": _counts(entries),
        "by_construction": _by_construction(entries),
        "stated": _stated(content.tables.claim_differences),
        "choices": _choices(entries, names, titles),
        "consistency": content.tables.paper_consistency.to_dict("records"),
        "decisions": DECISIONS,
        "most_signs": MOST_SIGNS,
        "conditions": conditions,
        "anchors": {condition.anchor: condition for condition in conditions},
        "condition_anchor": condition_anchor,
        "drawn": {
            (tables.params.name, figure.epochs)
            for tables in content.studies
            for figure in tables.figures
        },
        "picture_size": (WIDTH, HEIGHT),
        "paper_was_run": any(entry.run and not entry.carried for entry in entries),
    }


class Counts(NamedTuple):
    """The numbers of claims: one row per verdict that occurs, one column per kind of claim."""

    kinds: list[str]
    rows: list[tuple[Verdict, list[int]]]


def _by_construction(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """What `_counts` leaves out, in the same two parts."""
    found: dict[str, set[str]] = {"own": set(), "carried": set()}
    for entry in entries:
        if entry.by_construction:
            found["carried" if entry.carried else "own"].add(entry.heading.rstrip("."))
    return {part: sorted(headings) for part, headings in found.items()}


def _counts(entries: Sequence[Entry]) -> dict[str, Counts]:
    """Counts claims on the paper's own studies (`own`) and on others (`carried`), if there are any.

    What holds by construction is not counted, because it says nothing about the paper.
    """
    telling = [entry for entry in entries if not entry.by_construction]
    parts = {
        "own": [entry for entry in telling if not entry.carried],
        "carried": [entry for entry in telling if entry.carried],
    }
    return {name: _counted_by_kind(part) for name, part in parts.items() if part}


def _counted_by_kind(entries: Sequence[Entry]) -> Counts:
    kinds = [kind for kind in KINDS if any(entry.kind == kind for entry in entries)]
    rows = []
    for verdict, _ in counted(entries):
        of_verdict = [entry.kind for entry in entries if entry.verdict == verdict]
        rows.append((verdict, [of_verdict.count(kind) for kind in kinds]))
    return Counts(kinds, rows)


class Stated(NamedTuple):
    """The number of the paper's differences that were run, and of comparisons of runs behind them.

    The paper states some differences twice, and one of our schedules may stand for two of its.
    """

    differences: int
    comparisons: int


def _stated(differences: pd.DataFrame) -> dict[str, Stated]:
    """The numbers for the paper's own studies (`own`), and for others (`carried`)."""
    compared = ["study", "epochs", "our_metric", "minuend", "subtrahend"]
    run = differences[differences["n"] > 0]
    carried = run["carried"].astype(bool)
    return {
        name: Stated(len(rows), len(rows[compared].drop_duplicates()))
        for name, rows in (("own", run[~carried]), ("carried", run[carried]))
    }


def _choices(
    entries: Sequence[Entry], studies: Sequence[str], titles: Titles
) -> dict[str, list[tuple[str, str]]]:
    """The options of each filter: their values and labels."""
    known = list(dict.fromkeys([*studies, *(entry.study for entry in entries)]))
    arms = sorted({arm for entry in entries for arm in entry.arms})
    return {
        "study": [(name, titles.study(name)) for name in known],
        "arm": [(name, titles.arm(name)) for name in arms],
        "verdict": [(slug(verdict), str(verdict)) for verdict, _ in counted(entries)],
    }


def _data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
