"""params/config.yaml: what the workflow audits, and on which device."""

from typing import Annotated

from pydantic import Field

from hamjepa_audit.machine import DeviceName
from hamjepa_audit.params.base import Name, Params, distinct


class ConfigParams(Params):
    """The workflow's configuration; `--config KEY=VALUE` overrides the file."""

    studies: Annotated[tuple[Name, ...], Field(min_length=1), distinct()]
    raw: str
    device: DeviceName
    runs_per_gpu: int = Field(ge=1)
