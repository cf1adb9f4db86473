"""The theory's parameters, made tiny, and the paper's toy experiment.

A module binds the fixtures that it uses, and those that they need: `params = tiny_theory.params`.
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
