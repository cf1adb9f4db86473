"""Gives fetched results modification times in the order in which they were made.

Files from a DVC remote or a clone have the times at which they arrived, so the workflow would
consider some of them older than their inputs.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from hamjepa_audit.bookkeeping.table_provenance import check_selections
from hamjepa_audit.errors import explained
from hamjepa_audit.layout import Layout

STEP_NS = 1_000_000


def restore_times(layout: Layout) -> int:
    """Sets the modification times of prepared data and results: inputs before outputs.

    This does not hide changed parameters: the workflow then writes another selection, which is
    newer than all of these files, and remakes what depends on it.

    Returns:
        The number of files whose times were set.

    Raises:
        UserError: a selection is not the one that tables were made from, which new times would
            hide; or a file belongs to someone else.
    """
    for path in layout.provenances():
        check_selections(layout, path)
    layers = [sorted(layer) for layer in _layers(layout)]
    start = time.time_ns() - STEP_NS * len(layers)
    for position, layer in enumerate(layers):
        moment = start + STEP_NS * position
        for path in layer:
            with explained(f"set the time of {path}", "its owner can run this"):
                os.utime(path, ns=(moment, moment))
    return sum(map(len, layers))


def _layers(layout: Layout) -> Iterator[set[Path]]:
    """Yields the files in the order in which they are made, each in the first matching layer."""
    seen: set[Path] = set()
    results, studies = layout.results, layout.studies()
    for root, pattern in (
        (layout.data, layout.source("*").name),
        (layout.data, "[!.]*/*.npy"),
        (layout.data, layout.manifest("*").relative_to(layout.data).as_posix()),
        (layout.runs(), "*/*"),
        (layout.evaluations(), "*/*.parquet"),
        (studies, f"**/{layout.studies_selection().name}"),
        (studies, layout.claims_selection().name),
        (studies, "*/*.parquet"),
        (results, layout.metrics().name),
        (results, layout.headlines().name),
        (results, layout.accuracies().name),
        (layout.audit_tables(), "**/*"),
        (results, "**/*"),
    ):
        layer = {path for path in root.glob(pattern) if path.is_file()} - seen
        seen |= layer
        yield layer
