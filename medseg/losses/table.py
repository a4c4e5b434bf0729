"""The table of losses; free of torch. ``docs/losses.md`` says when to use which."""

from __future__ import annotations

# Name -> its terms, imported when they are used; the loss is their plain sum. Dice and cross-entropy together are
# nnU-Net's (Isensee et al. 2021).
LOSSES: dict[str, tuple[str, ...]] = {
    "dice_ce": ("medseg.losses.overlap:DICE", "medseg.losses.pixelwise:CROSS_ENTROPY"),
    "dice": ("medseg.losses.overlap:DICE",),
    "ce": ("medseg.losses.pixelwise:CROSS_ENTROPY",),
    "dice_focal": ("medseg.losses.overlap:DICE", "medseg.losses.pixelwise:FOCAL"),
    "dice_topk": ("medseg.losses.overlap:DICE", "medseg.losses.pixelwise:TOP_K"),
    "tversky": ("medseg.losses.overlap:TVERSKY",),
    "generalised_dice": ("medseg.losses.overlap:GENERALISED_DICE",),
    "lovasz": ("medseg.losses.lovasz:LOVASZ",),
    "dice_boundary": ("medseg.losses.overlap:DICE", "medseg.losses.distance:BOUNDARY"),
    "dice_hausdorff": ("medseg.losses.overlap:DICE", "medseg.losses.distance:HAUSDORFF"),
    "cldice": ("medseg.losses.overlap:DICE", "medseg.losses.skeleton:CL_DICE"),
}
