"""Readouts: the halves of a state, and both."""

import pytest
import torch

from hamjepa_audit.evaluation.readouts import readout


class TestReadouts:
    def test_halves_of_the_state(self) -> None:
        states = torch.arange(12.0).view(2, 6)
        assert readout(states, "q").tolist() == [[0, 1, 2], [6, 7, 8]]
        assert readout(states, "p").tolist() == [[3, 4, 5], [9, 10, 11]]
        assert torch.equal(readout(states, "qp"), states)
        assert torch.equal(readout(states, "all"), states)

    def test_refuses_an_odd_width(self) -> None:
        with pytest.raises(ValueError, match="even width, got 5"):
            readout(torch.zeros(2, 5), "q")
