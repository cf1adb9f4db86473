"""Modification times of fetched results: inputs are older than outputs."""

import os
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest

from hamjepa_audit.bookkeeping.restoration import restore_times
from hamjepa_audit.errors import UserError
from hamjepa_audit.files import write_json
from hamjepa_audit.plans.audit import joint_tables
from tests.tiny import STUDY, files_below
from tests.unit import whole_results
from tests.unit.fabricated import plan_of
from tests.unit.whole_results import LAYOUT

whole, place = whole_results.whole, whole_results.place
ARRIVED = 2_000_000_000
"""Modification time of all fetched files, in the future."""


@pytest.fixture
def fetched(place: Path) -> Path:
    write_json(LAYOUT.source(STUDY), {})
    for path in files_below(place):
        os.utime(path, (ARRIVED, ARRIVED))
    return place


def older(first: Iterable[Path], second: Iterable[Path]) -> bool:
    """Whether all of the first files are older than all of the second."""
    times = [[path.stat().st_mtime_ns for path in paths] for paths in (first, second)]
    return max(times[0]) < min(times[1])


def test_what_is_made_is_newer_than_what_it_is_made_of(fetched: Path) -> None:
    plan = plan_of(LAYOUT, STUDY)
    steps = [step for batch in plan.batches.values() for step in batch.steps]
    order = [
        [LAYOUT.source(STUDY)],
        sorted(LAYOUT.store(STUDY).glob("*.npy")),
        [LAYOUT.manifest(STUDY)],
        sorted(LAYOUT.runs().glob("*/*")),
        plan.measurements(*dict.fromkeys(steps)),
        [LAYOUT.selection(STUDY), LAYOUT.studies_selection(), LAYOUT.claims_selection()],
        [LAYOUT.study_table(STUDY, kind) for kind in ("metrics", "curves", "history")],
        [LAYOUT.metrics()],
    ]
    restore_times(LAYOUT)
    assert all(older(first, second) for first, second in pairwise(order))
    tables = [path for path in [*plan.tables(), *joint_tables(LAYOUT)] if path.suffix != ".json"]
    assert older([LAYOUT.metrics()], set(tables) - {LAYOUT.headlines()})


def test_all_is_dated_before_now_so_that_what_changes_next_is_newer(fetched: Path) -> None:
    dated = restore_times(LAYOUT)
    data = {f"{LAYOUT.data}/{path}" for path in files_below(LAYOUT.data)}
    results = {f"{LAYOUT.results}/{path}" for path in files_below(LAYOUT.results)}
    assert dated == len(data | results)
    now = time.time_ns()
    assert all(Path(path).stat().st_mtime_ns < now for path in data | results)


def test_a_file_of_someone_else_is_named(fetched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(os, "utime", refuse)
    told = rf"can't set the time of {LAYOUT.source(STUDY)}: Operation not permitted; its owner"
    with pytest.raises(UserError, match=told):
        restore_times(LAYOUT)
