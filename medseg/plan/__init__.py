"""plan: manifest -> fingerprint -> plan.

Reads the manifest and every image once; writes ``fingerprint.json`` (what the data are like) and one ``{model}.json``
per model (what will be done and why). Guarantees: the plan holds every number training depends on, and a budget in
minutes is turned into steps here, once.
"""
