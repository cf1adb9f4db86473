"""Readouts: the parts of a state that are probed."""

from torch import Tensor

from hamjepa_audit.params.arms import Readout


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
