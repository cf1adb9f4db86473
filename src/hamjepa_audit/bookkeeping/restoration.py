"""Fetched results get the times of the order they were made in.

Files that come from a remote or from a clone have the times at which they happened to arrive, so
that the workflow would take some for older than what they were made of.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from hamjepa_audit.bookkeeping.table_provenance import check_selections
from hamjepa_audit.layout import Layout

STEP_NS = 1_000_000


def restore_times(layout: Layout) -> int:
    """Dates what lies below the data and the results: inputs before what is made of them.

    It says nothing of what the results are made for: where the parameters have changed since,
    the workflow writes another selection, newer than all of this, and makes what depends on it.

    Returns:
        The number of files that were dated.

    Raises:
        UserError: a selection is not the one that tables were made of, which dates would hide.
    """
    for path in layout.provenances():
        check_selections(layout, path)
    layers = [sorted(layer) for layer in _layers(layout)]
    start = time.time_ns() - STEP_NS * len(layers)
    for position, layer in enumerate(layers):
        moment = start + STEP_NS * position
        for path in layer:
            os.utime(path, ns=(moment, moment))
    return sum(map(len, layers))


def _layers(layout: Layout) -> Iterator[set[Path]]:
    """The files by the order they are made in; each in the first layer that it belongs to."""
    seen: set[Path] = set()
    results, studies = layout.results, layout.studies().parent
    for root, pattern in (
        (layout.data, layout.source("*").name),
        (layout.data, "[!.]*/*.npy"),
        (layout.data, layout.manifest("*").relative_to(layout.data).as_posix()),
        (layout.runs(), "*/*"),
        (layout.evaluations(), "*/*.parquet"),
        (studies, f"**/{layout.studies().name}"),
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
