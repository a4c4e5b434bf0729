"""The base class of all sections of the configuration, and its field types."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from medseg import limits
from medseg.bounds import LARGEST
from medseg.files import SAFE_NAME

Name = Annotated[str, Field(pattern=rf"^{SAFE_NAME.pattern}$")]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Positive = Annotated[float, Field(gt=0, le=LARGEST)]
# Which value is whose is checked with the label table.
Label = Annotated[int, Field(le=limits.MAX_LABEL)]
# A channel of a file: its number, or the file's own name.
Channel = Annotated[int, Field(ge=0, lt=limits.MAX_CHANNELS)] | str
Shards = Annotated[int, Field(ge=1, le=limits.MAX_SHARDS)]
Epochs = Annotated[int, Field(ge=1, le=limits.MAX_EPOCHS)]
Minutes = Annotated[float, Field(gt=0, le=limits.MAX_MINUTES)]
Wait = Annotated[float, Field(gt=0, le=limits.MAX_WAIT_S)]
Gigabytes = Annotated[float, Field(gt=0, le=limits.MAX_GB)]
# Values of a plan, which is read within the same limits.
Rate = Annotated[float, Field(gt=0, le=limits.MAX_RATE)]
Spacing = Annotated[float, Field(gt=0, le=limits.MAX_SPACING)]
Steps = Annotated[int, Field(ge=1, le=limits.MAX_STEPS)]
Seed = Annotated[int, Field(ge=0, le=limits.MAX_SEED)]


class Section(BaseModel):
    """A section of the configuration: strict types, no unknown keys, frozen."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
