"""Timing of a part, and rows of the long table of results."""

import itertools
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import torch
from pydantic import Field

from hamjepa_audit.cuda_graphs import WARM_UP_CALLS, can_record
from hamjepa_audit.params.base import Count, Params

Row = dict[str, Any]


class Repetition(Params):
    """How often something is timed."""

    repeats: Count
    """At least."""
    seconds: Annotated[float, Field(ge=0)]
    """At least for this long, all implementations together: the shorter, the more often."""


def seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call, including the device's queued work."""
    _wait(device)
    started = perf_counter()
    work()
    _wait(device)
    return perf_counter() - started


def in_turns(
    device: torch.device, repetition: Repetition, **implementations: Callable[[], object]
) -> dict[str, float]:
    """Median seconds of each implementation; they take turns, so that slow periods affect all.

    Each is called beforehand, so that caches and lazy imports don't count: once, or on a GPU until
    a training step has been recorded.
    """
    for work in implementations.values():
        for _ in range(WARM_UP_CALLS + 1 if can_record(device) else 1):
            work()
    taken: dict[str, list[float]] = {name: [] for name in implementations}
    started = perf_counter()
    for turn in itertools.count(1):
        for name, work in implementations.items():
            taken[name].append(seconds(device, work))
        elapsed = perf_counter() - started
        if turn >= repetition.repeats and elapsed >= repetition.seconds:
            break
    return {name: median(values) for name, values in taken.items()}


def row(part: str, implementation: str, value: float, unit: str, **setting: int) -> Row:
    """One row of the benchmark's table."""
    return {
        "part": part,
        "implementation": implementation,
        "value": value,
        "unit": unit,
        **{name: setting.get(name) for name in ("batch_size", "width", "threads")},
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
