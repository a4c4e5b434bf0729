"""train: prepared cases + plan + fold -> checkpoint.

Reads the store, the plan and the folds; writes ``model.safetensors``, ``model.json`` (what makes the weights usable),
``history.jsonl`` and ``timing.json``. Guarantees: every draw is a function of (seed, fold, step), so a killed training
that is started again ends with the same bits; state is saved as generations that are complete or absent; a number that
is not finite stops training and names the cases.
"""
