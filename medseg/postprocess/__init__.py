"""postprocess: prediction -> prediction, by the fixed operations that the data set's configuration names.

Reads ``predictions.json`` and its label maps (probabilities and images, where an operation needs them); writes the same
form. Operations are the rows of ``operations.OPERATIONS``.
Guarantees: nothing is chosen from the data that results are reported on; label maps already made from the same inputs,
operations and code are kept.
"""
