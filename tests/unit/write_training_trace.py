"""Writes training_trace.json: python -m tests.unit.write_training_trace."""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from hamjepa_audit.data.preparation import prepare
from hamjepa_audit.data.store import open_store
from hamjepa_audit.identity import TRAINING_NUMERICS
from hamjepa_audit.params import load_study, resolve_run
from hamjepa_audit.training.device import make_deterministic
from hamjepa_audit.training.loop import pretrain
from tests.tiny import ARMS, EPOCHS, STUDY, copy_params


def main() -> None:
    """Trains the tiny run of every arm and stores its history."""
    make_deterministic(threads=1)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        study = load_study(copy_params(root / "params"), STUDY)
        prepare(study.data, root, root)
        images = torch.from_numpy(np.array(open_store(root / STUDY).train.images))
        arms = {
            arm: pretrain(
                resolve_run(study, arm, EPOCHS, 0), images, torch.device("cpu"), arm
            ).history
            for arm in ARMS
        }
    content = {"training_numerics": TRAINING_NUMERICS, "arms": arms}
    target = Path(__file__).parent / "training_trace.json"
    target.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
