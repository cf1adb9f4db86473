"""The parts of the page on each study that was run: tables, differences, figures and runs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from hamjepa_audit.bookkeeping.records import Record
from hamjepa_audit.params.studies import GainParams, StudyParams
from hamjepa_audit.reporting.formatting import (
    ABSENT,
    Display,
    Row,
    interval_text,
    number,
    p_value,
    quantity,
)
from hamjepa_audit.reporting.names import metric_title, with_unit
from hamjepa_audit.reporting.order import LEADING, final_checkpoint, present
from hamjepa_audit.reporting.page_claims import Titles
from hamjepa_audit.reporting.tables import overview_displayed
from hamjepa_audit.statistics.gain import DIFFERS, WITHIN
from hamjepa_audit.statistics.order import sorted_in_order

SHORT = 12
"""The number of characters that are shown of a digest or commit."""

NOT_RECORDED = "not recorded"


class FigureFile(NamedTuple):
    """The file of a figure of a study, with its caption."""

    name: str
    epochs: int
    path: Path
    caption: str


class StudyTables(NamedTuple):
    """The tables and figures of one study."""

    params: StudyParams
    overview: pd.DataFrame
    summary: pd.DataFrame
    differences: pd.DataFrame
    gain: pd.DataFrame | None
    """What `statistics.gain` returns; None if the study lacks the arms for it."""
    figures: tuple[FigureFile, ...]


class Run(NamedTuple):
    """One run, as described by its record."""

    run_id: str
    seed: int
    commit: str
    lock: str
    device: str
    torch: str
    took: str


class Condition(NamedTuple):
    """The runs of one arm and number of epochs, and their parameters except for the seed."""

    anchor: str
    arm: str
    study: str
    epochs: int
    runs: tuple[Run, ...]
    parameters: tuple[tuple[str, str], ...]

    @property
    def provenance(self) -> str:
        """The code and the devices of the runs, in one line."""
        seeds = ", ".join(str(run.seed) for run in self.runs)
        parts = [f"seed{'s' if len(self.runs) > 1 else ''} {seeds}"]
        for title, values in (
            ("commit", {run.commit for run in self.runs}),
            ("lock", {run.lock for run in self.runs}),
            ("on", {run.device for run in self.runs}),
        ):
            parts.append(f"{title} {', '.join(sorted(values))}")
        return "; ".join(parts)


class Study(NamedTuple):
    """One study on the page."""

    name: str
    title: str
    baseline: str
    scope: str
    confidence: float | None
    """Level of the intervals; None where no two seeds are paired."""
    overview: Display
    differences: Display
    findings: tuple[str, ...]
    method: str
    to_method: tuple[str, ...]
    """How the arms compare with the method; empty if the study lacks the arms for it."""
    figures: tuple[FigureFile, ...]


def study(tables: StudyTables, titles: Titles, minimum_seeds: int) -> Study:
    """The part of the page on a study; fewer seeds than `minimum_seeds` show no difference."""
    params = tables.params
    arms = params.arm_names
    epochs = " and ".join(str(number) for number in params.epochs)
    return Study(
        name=params.name,
        title=params.title,
        baseline=titles.arm(arms[0]),
        scope=", ".join(
            [
                quantity(len(arms), "arm"),
                quantity(len(params.seeds), "seed"),
                f"{epochs} epoch{'' if params.epochs == (1,) else 's'}",
            ]
        ),
        confidence=params.statistics.confidence if (tables.differences["n"] > 1).any() else None,
        overview=_with_titles(overview_displayed(tables.overview, tables.summary), titles),
        differences=to_baseline(tables.differences, arms, titles),
        findings=tuple(findings(tables.differences, arms, titles, minimum_seeds)),
        method=titles.arm(params.statistics.gain.method),
        to_method=tuple(to_method(tables.gain, params.statistics.gain, titles)),
        figures=tables.figures,
    )


def _with_titles(table: Display, titles: Titles) -> Display:
    rows = [[titles.arm(row[0]), *row[1:]] for row in table.rows]
    return table._replace(rows=rows)


def to_baseline(differences: pd.DataFrame, arms: Sequence[str], titles: Titles) -> Display:
    """The differences of each arm from the first: mean, interval and p, one column per metric."""
    rows = _last_against(differences, arms)
    metrics = present(LEADING, rows["metric"])
    units = dict(zip(rows["metric"], rows["unit"], strict=True))
    fields = []
    for (epochs, arm, readout), group in rows.groupby(
        ["epochs", "minuend_arm", "minuend_readout"], sort=False
    ):
        by_metric = group.set_index("metric").to_dict("index")
        cells = [_difference(by_metric.get(metric)) for metric in metrics]
        fields.append([titles.side(str(arm), str(readout)), str(epochs), *cells])
    headings = [with_unit(metric, units[metric]) for metric in metrics]
    return Display(["Arm", "Epochs", *headings], fields, [False, True, *(True for _ in metrics)])


def _last_against(differences: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """Differences from the baseline in LEADING at the last epoch, in the order of the arms."""
    if differences.empty:
        return differences
    rows = final_checkpoint(differences)
    rows = rows[(rows["subtrahend_arm"] == arms[0]) & rows["metric"].isin(LEADING)]
    return sorted_in_order(rows, ["epochs", "minuend_arm"], {"minuend_arm": arms})


def _difference(row: Row | None) -> str:
    if row is None or row["n"] == 0:
        return ABSENT
    mean = number(row["mean_difference"], row["unit"])
    if row["n"] == 1:
        return f"{mean} (1)"
    bounds = interval_text(row["ci_low"], row["ci_high"], row["unit"])
    return f"{mean} {bounds}, p {p_value(row['p'])}"


def findings(
    differences: pd.DataFrame, arms: Sequence[str], titles: Titles, minimum_seeds: int
) -> Iterator[str]:
    """A sentence per metric on the differences from the baseline that the paired test shows.

    As in `statistics.gain`, no difference is shown by fewer seeds than `minimum_seeds`.
    """
    rows = _last_against(differences, arms)
    baseline = titles.arm(arms[0])
    several = rows["epochs"].nunique() > 1
    for metric in LEADING:
        of_metric = rows[rows["metric"] == metric]
        if of_metric.empty:
            continue
        shown = []
        for row in of_metric.to_dict("records"):
            if row["n"] < minimum_seeds or not row["p"] < 1 - row["confidence"]:
                continue
            size = number(abs(row["mean_difference"]), row["unit"])
            size += " points" if row["unit"] == "percent" else ""
            direction = "above" if row["mean_difference"] > 0 else "below"
            side = titles.side(row["minuend_arm"], row["minuend_readout"])
            at = f" at {row['epochs']} epochs" if several else ""
            shown.append(f"{side} is {size} {direction} {baseline}{at}")
        text = "; ".join(shown) if shown else f"no arm is shown to differ from {baseline}"
        yield f"{metric_title(metric)}: {text}."


def to_method(gain: pd.DataFrame | None, params: GainParams, titles: Titles) -> Iterator[str]:
    """A sentence per accuracy on the arms, other than the baseline, compared with the method.

    It names those that are shown to be within the margin, and those that differ otherwise.
    """
    if gain is None:
        return
    for metric in params.accuracies:
        difference = f"{metric}_minus_{params.method}"
        rows = gain[gain["arm"] != params.baseline].to_dict("records")
        several = len({row["epochs"] for row in rows}) > 1
        parts = []
        for reading in (WITHIN, DIFFERS):
            sides = [
                titles.side(row["arm"], row["readout"])
                + (f" ({number(row[difference], 'percent')})" if reading == DIFFERS else "")
                + (f" at {row['epochs']} epochs" if several else "")
                for row in rows
                if row[f"{difference}_reading"] == reading
            ]
            if sides:
                parts.append(f"{reading}: {', '.join(sides)}")
        yield f"{metric_title(metric)}: {'; '.join(parts) or 'no arm is shown to be either'}."


def conditions(
    studies: Iterable[StudyParams],
    runs: pd.DataFrame,
    records: Mapping[str, Record],
    titles: Titles,
) -> Iterator[Condition]:
    """Yields the runs behind the numbers, by arm and number of epochs.

    Args:
        studies: the studies that were audited.
        runs: one row per run, with `study`, `arm`, `epochs`, `seed`, `run_id`.
        records: the records by run id; a run without one is shown without details.
        titles: the titles of arms.
    """
    for params in studies:
        for arm in params.arms:
            for epochs in params.epochs:
                where = (params.name, arm.name, epochs)
                rows = runs[(runs[["study", "arm", "epochs"]] == list(where)).all(axis=1)]
                if rows.empty:
                    continue
                found = [records.get(name) for name in rows["run_id"]]
                yield Condition(
                    anchor=condition_anchor(*where),
                    arm=titles.arm(arm.name),
                    study=params.title,
                    epochs=epochs,
                    runs=tuple(
                        _run(name, int(seed), record)
                        for name, seed, record in zip(
                            rows["run_id"], rows["seed"], found, strict=True
                        )
                    ),
                    parameters=tuple(_parameters(found[0]["params"] if found[0] else {})),
                )


def condition_anchor(study: str, arm: str, epochs: int) -> str:
    """The anchor of the runs of a study, arm and number of epochs on the page."""
    return f"runs-{study}-{arm}-e{epochs}"


def _run(run_id: str, seed: int, record: Record | None) -> Run:
    if record is None:
        return Run(run_id, seed, *[NOT_RECORDED] * 5)
    device, commit = record["device"], (record["commit"] or NOT_RECORDED)[:SHORT]
    return Run(
        run_id=run_id,
        seed=seed,
        commit=commit + (" with changes" if record["uncommitted_changes"] else ""),
        lock=(record["lock_sha256"] or NOT_RECORDED)[:SHORT],
        device=f"{device['name']} ({device['type']})",
        torch=record["packages"]["torch"],
        took=_duration(record),
    )


def _duration(record: Record) -> str:
    """The duration of training only, because a run may have been interrupted for days."""
    minutes, seconds = divmod(round(sum(record["epoch_seconds"])), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _parameters(tree: Any, above: str = "") -> Iterator[tuple[str, str]]:
    """The parameters of a record by dotted key, without the seed, which the table of runs has."""
    for key, value in tree.items():
        name = f"{above}{key}"
        if isinstance(value, dict):
            yield from _parameters(value, f"{name}.")
        elif name not in ("seed", "title"):
            values = value if isinstance(value, list) else [value]
            yield name, ", ".join("none" if item is None else str(item) for item in values)
