"""predict: checkpoint + image -> label map on the image's own grid.

Reads a model folder and raw images; writes one label map per image in its format (and probabilities, where an operation
of post-processing needs them), and ``predictions.json`` last. ``pipeline.py`` is the whole way of one image.
Guarantees: the same preparation as in training; shape, affine and format of the input come back exactly; predictions
already made from the same image (read in the same way), model and code are kept; shards change nothing in the result.
"""
