"""plan: manifest -> fingerprint -> plan.

Reads the manifest and every image once; writes ``fingerprint.json`` (properties of the data) and one ``{model}.json``
per model (every decision and its reason). Guarantees: the plan holds every number that training depends on, and a
budget in minutes is turned into steps here, once. Free of torch: resources, memory and pace of a training step are
handed in by the command line.
"""
