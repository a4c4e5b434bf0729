"""predict: checkpoint + image -> label map on the image's own grid.

Reads a model folder and raw images; writes one label map per image in its format (and probabilities, where
post-processing needs them), and ``predictions.json`` last.
Guarantees: the same preparation as in training; shape, affine and format of the input come back exactly.
"""
