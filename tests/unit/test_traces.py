"""Numbers of evaluation and theory, and all traces, change only with their version."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hamjepa_audit.training.device import make_deterministic
from tests.tiny import copy_params
from tests.unit import evaluation_trace, theory_trace, training_trace
from tests.unit.traces import Trace

TRACES = (training_trace.TRACE, evaluation_trace.TRACE, theory_trace.TRACE)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("stored", "trace", "tolerance"),
    [
        (evaluation_trace.TRACE, evaluation_trace.trace, 1e-3),
        (theory_trace.TRACE, theory_trace.trace, 1e-6),
    ],
    ids=["evaluation", "theory"],
)
def test_numbers_change_only_with_their_version(
    tmp_path: Path, stored: Trace, trace: Callable[[Path], dict[str, Any]], tolerance: float
) -> None:
    """Compares numbers of tiny computations with those stored for this version.

    If this fails, old results can't be mixed with new ones: increment EVALUATION_NUMERICS in
    plans/identity.py, or THEORY_NUMERICS in plans/theory.py, then write the new trace with
    python -m tests.unit.evaluation_trace, or theory_trace.
    """
    make_deterministic(threads=1)
    ours, expected = trace(copy_params(tmp_path / "params")), stored.stored()
    assert set(ours) == set(expected)
    for part, numbers in expected.items():
        # If two classes are nearly tied, another machine may choose the other one for one image.
        smallest = 101 / evaluation_trace.TEST if part in ("knn", "probe") else 1e-6
        assert ours[part] == pytest.approx(numbers, rel=tolerance, abs=smallest), part


@pytest.mark.golden
@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace.name)
def test_a_trace_is_the_one_that_was_stored_for_its_version(trace: Trace) -> None:
    assert trace.stored()


def test_a_trace_changes_only_with_its_version(tmp_path: Path) -> None:
    first, second = (Trace("some", version, tmp_path) for version in (1, 2))
    first.store({"a": {"x": 1.0}})
    # Stored again for the same version, old parts stay unchanged, and new ones are added.
    first.store({"a": {"x": 2.0}, "b": {"y": 3.0}})
    assert first.stored() == {"a": {"x": 1.0}, "b": {"y": 3.0}}
    whole = first.path.read_text()
    for changed in (whole.replace("1.0", "1.5"), whole.replace('"b"', '"c"')):
        first.path.write_text(changed)
        with pytest.raises(AssertionError, match="raise SOME_NUMERICS"):
            first.stored()
    first.path.write_text(whole)
    with pytest.raises(AssertionError, match="has version 1; write it again"):
        second.stored()
    first.path.write_text(json.dumps(json.loads(whole) | {"some_numerics": 2}))
    with pytest.raises(AssertionError, match="version 2 is not pinned"):
        second.stored()
    second.store({"a": {"x": 2.0}})
    assert second.stored() == {"a": {"x": 2.0}}
