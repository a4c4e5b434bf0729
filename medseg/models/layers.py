"""torch's layers for 2 and 3 spatial axes.

MONAI has factories for them, and importing MONAI takes longer than anything else that a short job does: four seconds of
a processor and half a gigabyte, since it loads all that it has, MLflow among it. Networks that are MONAI's own import
it where they are built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import nn

# By the number of axes; arguments are torch's, whose types say one or the other.
Layers: TypeAlias = Mapping[int, Callable[..., Any]]

CONV: Layers = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: Layers = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX_POOL: Layers = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVG_POOL: Layers = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
INSTANCE_NORM: Layers = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
BATCH_NORM: Layers = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
