"""The learning rate at every optimiser step."""

import math


def learning_rate(
    step: int, total_steps: int, warmup_steps: int, base: float, start_factor: float, floor: float
) -> float:
    """Linear warm-up, then cosine (protocol, "Optimisation").

    Args:
        step: from 0; the first step already runs at `start_factor` of the rate.
        total_steps: steps of the whole run.
        warmup_steps: steps of the warm-up, fewer than total_steps.
        base: the rate after the warm-up.
        start_factor: share of `base` at step 0; unused without warm-up.
        floor: rate at `total_steps`, one step after the last; absolute, for all parameter groups.
    """
    if step < warmup_steps:
        return base * (start_factor + (1 - start_factor) * step / warmup_steps)
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return floor + (base - floor) * (1 + math.cos(math.pi * progress)) / 2
