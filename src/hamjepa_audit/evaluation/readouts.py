"""Readouts: the parts of a state that are probed."""

from collections.abc import Iterator

from torch import Tensor

from hamjepa_audit.params.arms import ArmParams, Readout


def by_readout(arm: ArmParams, *states: Tensor) -> Iterator[tuple[Readout, tuple[Tensor, ...]]]:
    """Yields each readout of an arm, with that part of every matrix of states (N, 2d)."""
    for part in arm.readouts:
        yield part, tuple(readout(matrix, part) for matrix in states)


def readout(states: Tensor, name: Readout) -> Tensor:
    """The part of states s = [q; p] that `name` selects (protocol, "Evaluation").

    Args:
        states: (N, 2d).
        name: q selects the first half, p the second, qp and all the whole state.

    Returns:
        (N, d) or (N, 2d), a view.

    Raises:
        ValueError: the states' width is odd.
    """
    width = states.shape[1]
    if width % 2:
        raise ValueError(f"states are [q; p] and need an even width, got {width}")
    match name:
        case "q":
            return states[:, : width // 2]
        case "p":
            return states[:, width // 2 :]
        case "qp" | "all":
            return states
