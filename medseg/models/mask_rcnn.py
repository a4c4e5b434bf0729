"""Mask R-CNN (He et al. 2017, arXiv 1703.06870): boxes of objects, and a mask in each; 2-D.

A feature pyramid (Lin et al. 2017) proposes boxes. Features of a box, by RoIAlign, give its class, a better box, and a
mask. In training the network makes its own loss of proposals, classes, boxes and masks. Else its detections are
painted as the maps of the head ``boundary``, so that windows are blended and objects decoded as for any network.

What differs from the paper: proposals have no anchors (``detection/proposals.py``); boxes of all sizes have their
features from the finest map, as the paper's rule says of boxes below 112 voxels, which cells are; the finest map has
group norm, as everything else, since batches are small; up to half of the sample of proposals are objects, which in
pictures of cells are many; suppression of non-maxima knows no classes, since a voxel is in one object; the number of
detections is as large as that of proposals. Widths follow the plan.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.errors import PlanError
from medseg.image.labels import IGNORE
from medseg.image.objects import STEP
from medseg.models.detection import painting
from medseg.models.detection.boxes import best_of_overlapping, clipped, refined, refinements
from medseg.models.detection.heads import BOX_BINS, BoxHead, MaskHead, of_class, second_loss
from medseg.models.detection.objects import Objects, ignored, objects_of
from medseg.models.detection.proposals import ProposalHead, all_boxes, assigned, proposal_loss, proposed
from medseg.models.detection.pyramid import Pyramid
from medseg.models.detection.roi_align import roi_align
from medseg.models.detection.sampling import masks_in_boxes, sampled
from medseg.models.encoders.build import build_encoder
from medseg.models.spec import NetworkSpec
from medseg.networks import MaskRCNNOptions

# Objects of a training patch that are learnt from, the largest ones.
MOST_OBJECTS = 512
# Overlap from which on the worse of two detections is dropped (of the paper).
SAME = 0.5
# Detections of a lower score leave no trace in the maps.
FAINT = 0.05
# Images are padded to so many strides of the coarsest map, so that norms have several voxels.
LEAST_STRIDES = 2
# Stride of the last features of an encoder without a pyramid.
SINGLE_STRIDE = 8


class MaskRCNN(nn.Module):
    """Pyramid, proposals, heads of boxes and masks.

    Attributes:
        encoder: the classifier's convolutions (within the pyramid).
        classes: K, without the background.
    """

    def __init__(self, spec: NetworkSpec, options: MaskRCNNOptions) -> None:
        super().__init__()
        if spec.head != "boundary":
            raise PlanError(
                f"mask_rcnn paints its detections as maps of the head 'boundary', found '{spec.head or 'classes'}'; "
                "set models.<name>.head: boundary, which needs object data (instances: true)"
            )
        self.options, self.classes = options, spec.classes - 1
        width = spec.width(options.width)
        encoder = build_encoder(
            options.encoder,
            2,
            spec.in_channels,
            width=width,
            norm=options.norm,
            output_stride=None if options.pyramid else SINGLE_STRIDE,
        )
        # The paper's 256 and 1024 at its 64.
        channels, hidden = 4 * width, 16 * width
        self.pyramid = Pyramid(encoder, options.finest, channels, options.norm, single=not options.pyramid)
        self.proposer = ProposalHead(channels, options.norm)
        self.boxes = BoxHead(channels, hidden, self.classes)
        self.masks = MaskHead(channels, options.mask_layers, options.norm, self.classes)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(N, C, S) to logits (N, 2 or 2 + K, S); in training the finest features, and scores and edges of all voxels.

        Without classes to choose from there are foreground and boundary, else K scores of classes, too.
        """
        size = x.shape[2:]
        maps = self.pyramid(F.pad(x, self._padding(size)))
        scores, edges = self.proposer(maps)
        if self.training:
            return [maps[0], scores, edges]
        return self._painted(maps[0], scores, edges, size)

    def _padding(self, size: Sequence[int]) -> tuple[int, int, int, int]:
        least = LEAST_STRIDES * self.pyramid.levels[-1].stride
        down, right = (max(0, least - n) for n in size)
        return (0, right, 0, down)

    def _pooled(self, features: Tensor, boxes: Tensor, bins: int, samples: int) -> Tensor:
        finest = self.pyramid.levels[0]
        return roi_align(features, boxes, bins, finest.stride, finest.centre, samples)

    def objective(self, outputs: Sequence[Tensor], codes: Tensor) -> Tensor:
        """Loss of proposals, classes, boxes and masks, with equal weights as in the paper."""
        features, scores, edges = outputs
        codes = F.pad(codes, self._padding(codes.shape[1:]), value=IGNORE * STEP)
        objects, size, levels = objects_of(codes, MOST_OBJECTS), codes.shape[1:], self.pyramid.levels
        boxes = all_boxes(edges, levels, size)
        points = torch.cat([level.points(size, codes.device) for level in levels]).floor().long()
        points = points.minimum(torch.tensor(size, device=codes.device) - 1)
        known = ~ignored(codes)[:, points[:, 0], points[:, 1]]
        first = proposal_loss(scores, boxes, objects, assigned(objects, levels, size), known)
        most = min(self.options.proposals, 2 * self.options.sample)
        found, valid = proposed(scores, boxes, most, size)
        return first + self._second(features, found, valid, objects, codes)

    def _second(self, features: Tensor, boxes: Tensor, valid: Tensor, objects: Objects, codes: Tensor) -> Tensor:
        sample = sampled(boxes, valid, objects, codes, self.options.sample)
        logits, refinement = self.boxes(self._pooled(features, sample.boxes, BOX_BINS, 2))
        rows = sample.rows[..., None].expand(-1, -1, 4)
        wanted = refinements(sample.boxes, objects.boxes.gather(1, rows)).flatten(0, 1)
        classes, used = sample.classes.flatten(), sample.used.flatten()
        loss = second_loss(logits, refinement, classes, wanted, used, used & (classes > 0))
        # Their convolutions cost most of a step: half of the objects in the sample will do.
        first = slice(0, (sample.positive + 1) // 2)
        inside = sample.boxes[:, first]
        masks = self.masks(self._pooled(features, inside, self.options.mask // 2, 1))
        numbers = objects.numbers.gather(1, sample.rows[:, first])
        goal = masks_in_boxes(codes, inside, numbers, self.options.mask).flatten(0, 1).float()
        learnt = sample.used[:, first].flatten()
        misses = F.binary_cross_entropy_with_logits(
            of_class(masks, sample.classes[:, first].flatten()), goal, reduction="none"
        )
        return loss + (misses.mean(dim=(1, 2)) * learnt).sum() / learnt.sum().clamp_min(1)

    def _painted(self, features: Tensor, scores: Tensor, edges: Tensor, size: Sequence[int]) -> Tensor:
        """Logits of images of this size, of what is detected in each."""
        full = [n + p for n, p in zip(size, self._padding(size)[3::-2], strict=True)]
        boxes, valid = proposed(scores, all_boxes(edges, self.pyramid.levels, full), self.options.proposals, size)
        logits, refinement = self.boxes(self._pooled(features, boxes, BOX_BINS, 2))
        shares = logits.softmax(dim=1)[:, 1:].view(*boxes.shape[:2], -1)
        boxes = clipped(refined(boxes, refinement.view_as(boxes)), size)
        maps = []
        for image in range(len(features)):
            there = valid[image] & (shares[image].amax(dim=1) >= FAINT)
            maps.append(self._image(features[image : image + 1], boxes[image, there], shares[image, there], size))
        return torch.stack(maps)

    def _image(self, features: Tensor, boxes: Tensor, shares: Tensor, size: Sequence[int]) -> Tensor:
        """Maps of one image from boxes (D, 4) and probabilities of their classes (D, K)."""
        scores, classes = shares.max(dim=1)
        order = (scores * 1024).round().sort(descending=True, stable=True)[1]
        boxes, shares, scores, classes = boxes[order], shares[order], scores[order], classes[order]
        kept = best_of_overlapping(boxes[None], boxes.new_ones((1, len(boxes)), dtype=torch.bool), SAME)[0]
        boxes, shares, scores, classes = boxes[kept], shares[kept], scores[kept], classes[kept]
        if len(boxes):
            logits = self.masks(self._pooled(features, boxes[None], self.options.mask // 2, 1))
            masks = of_class(logits, classes + 1).sigmoid()
        else:
            masks = boxes.new_zeros(0, self.options.mask, self.options.mask)
        sure = scores >= self.options.score
        # What is not sure enough stays below one half, in proportion.
        weights = torch.where(sure, 1.0, scores / (2 * self.options.score))
        owner = painting.owners(masks[sure], scores[sure], boxes[sure], size)
        several = shares[sure] if self.classes > 1 else None
        return painting.logits_of(painting.foreground(masks, weights, boxes, size), owner, several)


def build(spec: NetworkSpec, options: MaskRCNNOptions) -> nn.Module:
    """Mask R-CNN."""
    return MaskRCNN(spec, options)
