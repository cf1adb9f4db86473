"""params/config.yaml: what the workflow audits, and on which device."""

from pydantic import Field, field_validator

from hamjepa_audit.machine import DeviceName
from hamjepa_audit.params.base import Name, Params


class ConfigParams(Params):
    """The workflow's configuration; `--config KEY=VALUE` overrides the file."""

    studies: tuple[Name, ...] = Field(min_length=1)
    raw: str
    device: DeviceName
    runs_per_gpu: int = Field(ge=1)

    @field_validator("studies")
    @classmethod
    def _distinct(cls, studies: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(studies)) < len(studies):
            raise ValueError(f"{list(studies)} has duplicates: name each study once")
        return studies
