"""Simultaneous detection and segmentation (Hariharan et al. 2014, arXiv 1407.1808): regions that are objects; 2-D.

Proposals, two crops of each and support vector machines are those of R-CNN (``rcnn.py``). What is new: features of both
crops are joined by a hidden layer, a region is compared with whole objects, and regions are refined. From the features
a coarse mask of the object is predicted in the region's box; a second classifier weighs it against what the region
says, and decides for each leaf of the image (its superpixels) whether it is of the object. Regions that overlap a
better one are dropped, and the others painted as the maps of the head ``boundary``.

Training has two parts: the loss of classes, coarse masks and leaves by gradients (``objective``), then support vector
machines on the features (``finish``).

What differs from the paper: proposals are those of selective search in place of MCG; one encoder sees both crops; a
coarse mask is read at the centre of a leaf in place of its mean over it; the second classifier has three weights for
all leaves; the half of the regions with the best scores is refined, described and scored again as what it has become,
and refined once more; suppression comes after that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.errors import PlanError, TrainingError
from medseg.models.blocks import he_normal
from medseg.models.detection.boxes import best_of
from medseg.models.detection.objects import objects_of
from medseg.models.detection.painting import logits_of
from medseg.models.detection.regions import (
    Leaves,
    at_leaves,
    examples_of,
    leaves_of,
    overlaps_of_regions,
    region_boxes,
    region_overlaps,
    true_regions,
    widened,
)
from medseg.models.detection.sampling import masks_in_boxes
from medseg.models.encoders.build import build_encoder
from medseg.models.logits import draw_small
from medseg.models.memory_layout import memory_format
from medseg.models.proposals import regions
from medseg.models.rcnn import CALIBRATION, CHUNK, MOST_EXAMPLES, unit_variance, warp
from medseg.models.region_svm import fit_svms
from medseg.models.spec import NetworkSpec
from medseg.networks import SDSOptions

CROP = 32
# Voxels per feature of a crop.
STRIDE = 8
# Bins of the coarse mask per axis, of the paper.
BINS = 10
# Around a region's box, in sides of it: the object may go on there.
MARGIN = 0.4
# Proposals: one for so many voxels, and not more.
VOXELS, MOST_REGIONS = 16, 2048
# Overlap with an object from which on a region is an example of it.
SAME = 0.5
# Share of the proposals that are refined, the best ones.
REFINED = 0.5
# Overlap from which on the worse of two refined regions is dropped.
TWICE = 0.3
MOST_OBJECTS = 256
# Regions of a lower score leave no trace in the maps.
FAINT = 0.1


class SDS(nn.Module):
    """Proposals, features, classifier, coarse masks and what weighs them.

    Attributes:
        encoder: the convolutions that describe a crop.
        classifier: features to K + 1 scores, of which only differences from the first count.
        fitted: whether support vector machines replace the classifier after the last step.
    """

    def __init__(self, spec: NetworkSpec, options: SDSOptions) -> None:
        super().__init__()
        if spec.head != "boundary":
            raise PlanError(
                f"sds paints its regions as maps of the head 'boundary', found '{spec.head or 'classes'}'; "
                "set models.<name>.head: boundary, which needs object data (instances: true)"
            )
        self.options, self.fitted, self.classes = options, options.svm, spec.classes - 1
        self.crop = options.crop or CROP
        width = spec.width(options.width)
        self.encoder = build_encoder(
            options.encoder, 2, spec.in_channels, width=width, norm=options.norm, output_stride=STRIDE
        )
        if options.norm == "none":
            draw = torch.randn(CALIBRATION, spec.in_channels, self.crop, self.crop)
            unit_variance(self.encoder, 0.3 * draw + torch.randn(CALIBRATION, spec.in_channels, 1, 1))
        bins = -(-self.crop // STRIDE)
        hidden = 16 * width
        self.hidden = nn.Linear(2 * self.encoder.channels[-1] * bins**2, hidden)
        he_normal(self.hidden)
        self.classifier = nn.Linear(hidden, self.classes + 1)
        self.coarse = nn.Linear(hidden, BINS**2)
        for layer in (self.classifier, self.coarse):
            draw_small(layer)
        # Of the coarse mask and of being in the region: at first as much of one as of the other.
        self.weigh = nn.Linear(2, 1)
        nn.init.ones_(self.weigh.weight)
        nn.init.constant_(self.weigh.bias, -0.5)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(N, C, S) to logits (N, 2 or 2 + K, S); in training the images themselves and their regions."""
        most = self.options.regions or min(MOST_REGIONS, max(VOXELS, x[0, 0].numel() // VOXELS))
        leaves, members, boxes = regions(x, most)
        if self.training:
            return [x, leaves, members, boxes]
        return torch.stack(
            [self._image(x[n : n + 1], leaves[n : n + 1], members[n : n + 1], boxes[n : n + 1]) for n in range(len(x))]
        )

    def describe(self, x: Tensor, leaves: Tensor, members: Tensor, boxes: Tensor) -> Tensor:
        """Features (N, R, D) of regions (N, R, L) of images (N, C, S): of the widened box, and of the foreground."""
        full, inside = warp(x, leaves, members, widened(boxes, MARGIN), self.crop)
        mean = x.mean(dim=(2, 3), keepdim=True)[:, None]
        pairs = torch.stack([full, torch.where(inside[:, :, None], full, mean)], dim=2).flatten(0, 2)
        pairs = pairs.contiguous(memory_format=memory_format(2))
        size = len(pairs) if torch.is_grad_enabled() else CHUNK
        found = [self.encoder(part)[-1].flatten(1) for part in torch.split(pairs, size)]
        return F.relu(self.hidden(torch.cat(found).view(*members.shape[:2], -1)))

    def leaf_logits(self, coarse: Tensor, members: Tensor, boxes: Tensor, leaves: Leaves) -> tuple[Tensor, Tensor]:
        """Logits (N, R, L) of leaves being in the object of a region, and which are in its widened box (N, R, L)."""
        at, inside = at_leaves(coarse.view(*coarse.shape[:2], BINS, BINS), widened(boxes, MARGIN), leaves.centres)
        return self.weigh(torch.stack([at, members.to(at.dtype)], dim=-1))[..., 0], inside

    def objective(self, outputs: Sequence[Tensor], codes: Tensor) -> Tensor:
        """Cross-entropy of classes, coarse masks and leaves, each a mean over a sample of the regions."""
        x, leaves, members, _ = outputs
        objects = objects_of(codes, MOST_OBJECTS)
        known = leaves_of(leaves, members.shape[2], objects, codes)
        members = torch.cat([members, true_regions(known)], dim=1)
        overlap, rows = region_overlaps(members, known).max(dim=2)
        near, far = examples_of(members, overlap, known)
        chosen = self._sample(near & (overlap >= SAME), near & (overlap < SAME), far)
        members, rows, overlap, near, far = (_rows(part, chosen) for part in (members, rows, overlap, near, far))
        boxes = region_boxes(members, known)
        features = self.describe(x, leaves, members, boxes)
        scores, coarse = self.classifier(features).float(), self.coarse(features).float()
        same = near & (overlap >= SAME)
        plain = F.cross_entropy(
            scores.flatten(0, 1), (objects.channels.gather(1, rows) * same).flatten(), reduction="none"
        )
        classified = (same | far).flatten()
        loss = (plain * classified).sum() / classified.sum().clamp_min(1)
        count = near.sum().clamp_min(1)
        numbers = objects.numbers.gather(1, rows)
        goal = masks_in_boxes(codes, widened(boxes, MARGIN).flatten(2), numbers, BINS).flatten(2).float()
        misses = F.binary_cross_entropy_with_logits(coarse, goal, reduction="none").mean(dim=2)
        loss = loss + (misses * near).sum() / count
        logits, inside = self.leaf_logits(coarse, members, boxes, known)
        shares = known.shares.transpose(1, 2).gather(1, rows[..., None].expand(-1, -1, known.shares.shape[1]))
        shares = shares / known.sizes.clamp_min(1)[:, None]
        weights = inside * known.sizes[:, None]
        weights = weights / weights.sum(dim=2, keepdim=True).clamp_min(1)
        misses = (F.binary_cross_entropy_with_logits(logits, shares, reduction="none") * weights).sum(dim=2)
        return loss + (misses * near).sum() / count

    def _sample(self, same: Tensor, near: Tensor, far: Tensor) -> Tensor:
        """Regions (N, M) to learn from: a third each of these kinds (N, R), as far as there are enough."""
        part = max(1, min(self.options.sample, near.shape[1]) // 3)
        draws = torch.rand(near.shape).to(near.device)
        order = [torch.where(k, draws, draws + 1).sort(dim=1, stable=True)[1][:, :part] for k in (same, near, far)]
        return torch.cat(order, dim=1)

    def _scores(self, features: Tensor) -> Tensor:
        """Probabilities (N, R, K) of being an object of each class."""
        scores = self.classifier(features).float()
        found: Tensor = (scores[..., 1:] - scores[..., :1]).sigmoid()
        return found

    def _shares(self, features: Tensor, members: Tensor, known: Leaves) -> Tensor:
        """Probabilities (N, R, L) of leaves being in the object of a region."""
        boxes = region_boxes(members, known)
        logits, inside = self.leaf_logits(self.coarse(features).float(), members, boxes, known)
        return logits.sigmoid() * inside

    def _image(self, x: Tensor, leaves: Tensor, members: Tensor, boxes: Tensor) -> Tensor:
        """Maps of one image."""
        known = leaves_of(leaves, members.shape[2])
        features = self.describe(x, leaves, members, boxes)
        order = _order(self._scores(features)[0].amax(dim=1))[: max(1, int(REFINED * members.shape[1]))]
        refined = self._shares(features[:, order], members[:, order], known) >= 0.5
        refined = refined[:, refined[0].any(dim=1)]
        # Looked at again as what it has become.
        features = self.describe(x, leaves, refined, region_boxes(refined, known))
        scores = self._scores(features)[0]
        order = _order(scores.amax(dim=1))
        scores = scores[order]
        best = scores.amax(dim=1)
        shares = self._shares(features[:, order], refined[:, order], known)[0]
        refined = shares >= 0.5
        there = refined.any(dim=1) & (best >= FAINT)
        kept = best_of(overlaps_of_regions(refined, known.sizes[0])[None], there[None], TWICE)[0]
        shares, scores, best = shares[kept], scores[kept], best[kept]
        sure = best >= self.options.score
        weights = torch.where(sure, 1.0, best / (2 * self.options.score))
        nothing = shares.new_zeros(1, shares.shape[1])
        foreground = torch.cat([nothing, shares * weights[:, None]]).amax(dim=0)
        claims = torch.where(shares[sure] >= 0.5, shares[sure], 0) * best[sure, None]
        owner = torch.cat([nothing, claims]).max(dim=0)[1]
        several = scores[sure] if self.classes > 1 else None
        return logits_of(foreground[leaves[0]], owner[leaves[0]], several)

    def finish(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Put support vector machines in place of the classifier, unless the option ``svm`` is false.

        Args:
            batches: images (N, C, S) and codes (N, S) of the training cases.

        Raises:
            TrainingError: if no region of them is an example of anything.
        """
        if not self.fitted:
            return
        training, found, wanted = self.training, [torch.empty(0)], [torch.empty(0)]
        self.train()
        with torch.no_grad():
            for images, codes in batches:
                x, leaves, members, _ = self(images)
                objects = objects_of(codes, MOST_OBJECTS)
                known = leaves_of(leaves, members.shape[2], objects, codes)
                features = self.describe(x, leaves, members, region_boxes(members, known))
                refined = self._shares(features, members, known) >= 0.5
                members = torch.cat([members, refined], dim=1)
                boxes = region_boxes(members, known)
                overlap, rows = region_overlaps(members, known).max(dim=2)
                near, far = examples_of(members, overlap, known)
                same = near & (overlap >= SAME)
                chosen = same | far
                features = torch.cat(
                    [features, self.describe(x, leaves, refined, boxes[:, -refined.shape[1] :])], dim=1
                )
                found.append(features[chosen].cpu())
                wanted.append((objects.channels.gather(1, rows) * same)[chosen].cpu().float())
                if sum(map(len, found)) >= MOST_EXAMPLES:
                    break
            self.train(training)
            if not sum(map(len, found)):
                raise TrainingError(
                    "support vector machines of the regions: no annotated voxel; label more of the cases"
                )
            shares = np.eye(self.classes + 1)[torch.cat(wanted[1:]).long().numpy()]
            weights, biases = fit_svms(torch.cat(found[1:]).double().numpy(), shares)
            self.classifier.weight.copy_(torch.from_numpy(weights))
            self.classifier.bias.copy_(torch.from_numpy(biases))


def _order(scores: Tensor) -> Tensor:
    """Rows (R) of scores (R), the best first; in steps, so that rounding decides about fewer of them."""
    return (scores * 1024).round().sort(descending=True, stable=True)[1]


def _rows(values: Tensor, chosen: Tensor) -> Tensor:
    """Rows (N, M) of values (N, R, ...)."""
    place = chosen.view(*chosen.shape, *[1] * (values.ndim - 2)).expand(-1, -1, *values.shape[2:])
    return values.gather(1, place)


def build(spec: NetworkSpec, options: SDSOptions) -> nn.Module:
    """SDS."""
    return SDS(spec, options)
