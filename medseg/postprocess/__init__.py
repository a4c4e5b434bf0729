"""postprocess: prediction -> prediction, by the fixed operations that the data set's configuration names.

Reads ``predictions.json`` and its label maps; writes the same form. Guarantees: nothing is chosen from the data that
results are reported on.
"""
