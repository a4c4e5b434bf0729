"""Region-based segmentation (Girshick et al. 2014, arXiv 1311.2524, section 5): R-CNN's features on free-form regions.

Class-agnostic proposals (``proposals.py``) are cut out by their bounding boxes and warped to a small square or cube,
once as they are (the paper's "full") and once with everything outside the region set to the image's mean ("fg"). A
convolutional network describes both, a linear classifier scores the pair, and a voxel takes, for each class, the best
score among the regions that contain it.

Two stages of training, as in the paper: the loss of the painted label map reaches the network through the winning
regions ("fine-tuning"), then linear support vector machines on the network's features replace the classifier
(``RCNN.finish``, ``region_svm.py``).

What differs from the paper: proposals are those of selective search, which the paper uses for detection, in place of
CPMC; features are the mean of the last convolutional features in place of fully connected layers; regions are
classified, in place of regression of the overlap.

In the zoo: sizes of images are free, since nothing but crops enters a convolution. Gradients reach the weights and not
the image. Memory and time depend on the number of regions, the size of crops and the width, and hardly on the patch, so
that a step that does not fit is not made to fit by a shorter patch. Labels must be classes that exclude one another:
regions of classes (sigmoids) need ``svm: false``.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.errors import TrainingError
from medseg.models.encoders.build import build_encoder
from medseg.models.memory_layout import memory_format
from medseg.models.proposals import regions
from medseg.models.region_svm import class_shares, fit_svms
from medseg.models.spec import NetworkSpec
from medseg.networks import RCNNOptions

CROP = {2: 32, 3: 20}
# Crops of noise that the first weights are scaled by.
CALIBRATION = 16
# Crops that are described at once where no gradient is needed.
CHUNK = 512
# Regions that the machines are fitted to; what comes later is not looked at.
MOST_EXAMPLES = 20_000


class RCNN(nn.Module):
    """Proposals, their features and their classifier.

    Attributes:
        encoder: the convolutions that describe a crop.
        classifier: features of both crops to K scores.
        heads: the layer whose bias shifts the logits.
        fitted: whether support vector machines replace the classifier after the last step.
    """

    def __init__(self, spec: NetworkSpec, options: RCNNOptions) -> None:
        super().__init__()
        self.regions, self.fitted = options.regions, options.svm
        self.crop = options.crop or CROP[spec.dims]
        # Crops are small: the encoder strides as far as two voxels per axis are left, and dilates from there on.
        stride = next(s for s in (32, 16, 8) if self.crop > s)
        self.encoder = build_encoder(
            options.encoder,
            spec.dims,
            spec.in_channels,
            width=spec.width(options.width),
            norm=options.norm,
            output_stride=stride,
        )
        if options.norm == "none":
            draw = torch.randn(CALIBRATION, spec.in_channels, *[self.crop] * spec.dims)
            # Crops differ in brightness more than within.
            unit_variance(self.encoder, 0.3 * draw + torch.randn(CALIBRATION, spec.in_channels, *[1] * spec.dims))
        self.classifier = nn.Linear(2 * self.encoder.channels[-1], spec.out_channels)
        self.heads = [self.classifier]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to logits (N, K, S)."""
        leaves, members, boxes = regions(x, self.regions)
        return paint(self.classifier(self.describe(x, leaves, members, boxes)), leaves, members)

    def describe(self, x: Tensor, leaves: Tensor, members: Tensor, boxes: Tensor) -> Tensor:
        """Features (N, R, 2 D) of the regions of images (N, C, S): of the full box, then of the foreground."""
        full, inside = warp(x, leaves, members, boxes, self.crop)
        mean = x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)[:, None]
        crops = torch.stack([full, torch.where(inside[:, :, None], full, mean)], dim=2)
        flat = crops.flatten(0, 2).contiguous(memory_format=memory_format(x.ndim - 2))
        size = len(flat) if torch.is_grad_enabled() else CHUNK
        pooled = [self.encoder(part)[-1].flatten(2).mean(dim=2) for part in torch.split(flat, size)]
        return torch.cat(pooled).view(*members.shape[:2], -1)

    def finish(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Put support vector machines in place of the classifier, unless the option ``svm`` is false.

        Args:
            batches: images (N, C, S) and labels (N, S) of the training cases, ``IGNORE`` where not annotated.

        Raises:
            TrainingError: if no voxel of them is annotated.
        """
        if not self.fitted:
            return
        training, classes = self.training, self.classifier.out_features
        examples, shares = [torch.empty(0)], [torch.empty(0)]
        self.eval()
        with torch.no_grad():
            for images, labels in batches:
                found = regions(images, self.regions)
                share, known = class_shares(labels, found[0], found[1], classes)
                examples.append(self.describe(images, *found)[known].float().cpu())
                shares.append(share[known].cpu())
                if sum(map(len, examples)) >= MOST_EXAMPLES:
                    break
            self.train(training)
            if not sum(map(len, examples)):
                raise TrainingError(
                    "support vector machines of the regions: no annotated voxel; label more of the cases"
                )
            weights, biases = fit_svms(torch.cat(examples[1:]).double().numpy(), torch.cat(shares[1:]).numpy())
            self.classifier.weight.copy_(torch.from_numpy(weights))
            self.classifier.bias.copy_(torch.from_numpy(biases))


@torch.no_grad()
def unit_variance(encoder: nn.Module, x: Tensor) -> None:
    """Scale each convolution so that its output has variance 1 for images (N, C, S) (Mishkin & Matas 2016); in place.

    On feature maps of two voxels, most of a kernel lies in the padding. He's weights take no account of it: features
    fade from layer to layer, and the first steps of training extinguish them.
    """
    seen: list[Tensor] = []
    for layer in encoder.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            # Read at once: the activation that follows works in place.
            hook = layer.register_forward_hook(lambda _layer, _inputs, output: seen.append(output.std()))
            encoder(x)
            hook.remove()
            layer.weight.div_(seen.pop())


def warp(images: Tensor, leaves: Tensor, members: Tensor, boxes: Tensor, crop: int) -> tuple[Tensor, Tensor]:
    """Cut boxes out and resize them to ``crop`` voxels per axis, linearly.

    Args:
        images: (N, C, S).
        leaves, members, boxes: of ``proposals.regions``.
        crop: voxels per axis.

    Returns:
        crops (N, R, C, crop ...), and whether their voxels are in the region (N, R, crop ...).
    """
    size = images.shape[2:]
    dims, count = len(size), boxes.shape[1]
    low, high = boxes.float().unbind(2)
    centres = (torch.arange(crop, device=images.device) + 0.5) / crop
    axes = []
    for axis in range(dims):
        along = low[..., axis, None] + centres * (high - low)[..., axis, None]
        # From voxels, the first beginning at 0, to -1..1 between the image's edges.
        line = [crop if other == axis else 1 for other in range(dims)]
        axes.append((2 * along / size[axis] - 1).view(*low.shape[:2], *line).expand(*low.shape[:2], *[crop] * dims))
    grid = torch.stack(axes[::-1], dim=-1).flatten(1, 2)
    crops = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    leaf = F.grid_sample(leaves[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False)
    shape = (count, *[crop] * dims)
    inside = members.gather(2, leaf.long().view(len(images), count, -1)).view(-1, *shape)
    return crops.view(*images.shape[:2], *shape).transpose(1, 2), inside


def paint(scores: Tensor, leaves: Tensor, members: Tensor) -> Tensor:
    """Logits (N, K, S): for each voxel and class the largest score (N, R, K) among the regions that contain the voxel.

    All voxels of a leaf are in the same regions, so the maximum is taken once per leaf.
    """
    inside = members.transpose(1, 2)[..., None]
    best = scores[:, None].masked_fill(~inside, -torch.inf).amax(dim=2)
    place = leaves.flatten(1)[:, None].expand(-1, scores.shape[2], -1)
    return best.transpose(1, 2).gather(2, place).view(*place.shape[:2], *leaves.shape[1:])


def build(spec: NetworkSpec, options: RCNNOptions) -> nn.Module:
    """R-CNN for segmentation."""
    return RCNN(spec, options)
