"""Files of a finished run: checkpoint, history, and a record of its inputs and circumstances."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from hamjepa_audit.checkpoints import save_checkpoint
from hamjepa_audit.files import sha256_file, write_sealed_json
from hamjepa_audit.layout import Layout
from hamjepa_audit.metrics import HISTORY_SCHEMA
from hamjepa_audit.params.studies import RunParams
from hamjepa_audit.parquet import write_parquet
from hamjepa_audit.plans.identity import TRAINING_NUMERICS, run_key
from hamjepa_audit.training.device import describe_device, peak_memory
from hamjepa_audit.training.loop import TrainingResult

RECORD_SCHEMA = 1


def write_run(
    layout: Layout,
    run: RunParams,
    digest: str,
    result: TrainingResult,
    device: torch.device,
    circumstances: dict[str, Any],
    along: Sequence[Path],
) -> None:
    """Writes checkpoint and history, then the record, which marks the run as complete.

    `circumstances` are further entries of the record: code, settings of determinism, resumptions.
    The intermediate checkpoints `along` are in the run's folder already.
    """
    key = run_key(run, digest)
    checkpoint = layout.checkpoint(key.run_id)
    history = layout.run_history(key.run_id)
    save_checkpoint(result.model, checkpoint)
    rows = [
        key._asdict() | {"epoch": epoch, "term": term, "value": value}
        for epoch, means in enumerate(result.history, start=1)
        for term, value in means.items()
    ]
    write_parquet(history, pa.Table.from_pylist(rows, schema=HISTORY_SCHEMA))
    record = {
        "schema": RECORD_SCHEMA,
        **key._asdict(),
        "params": run.training_content() | {"title": run.arm.title},
        "data_digest": digest,
        "training_numerics": TRAINING_NUMERICS,
        "files": {path.name: sha256_file(path) for path in (*along, checkpoint, history)},
        **circumstances,
        "device": describe_device(device),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "epoch_seconds": [round(seconds, 4) for seconds in result.epoch_seconds],
        "data_wait_share": result.data_wait_share,
        "peak_memory": peak_memory(device),
    }
    layout.without_weights(key.run_id).unlink(missing_ok=True)
    write_sealed_json(layout.record(key.run_id), record)
