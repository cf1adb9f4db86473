"""Tiny parameters of the theory's checks, and the paper's claims on its toy experiment.

A test module assigns the fixtures that it needs, directly or indirectly, to its own names:
`params = tiny_theory.params`.
"""

from pathlib import Path

import pytest

from hamjepa_audit.params.claims import ToyTransport, load_claims
from hamjepa_audit.params.theory import TheoryParams, load_theory
from tests.tiny import copy_params


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> TheoryParams:
    return load_theory(copy_params(tmp_path_factory.mktemp("theory") / "params"))


@pytest.fixture(scope="module")
def claim(params_folder: Path) -> ToyTransport:
    toy = load_claims(params_folder / "paper" / "claims.yaml").toy_transport
    assert toy is not None
    return toy
