"""weights: options.weights of a model -> a file on this machine, and a record of it.

Reads a file, or fetches one from an http(s) address; writes ``{model}.json``, with its path and SHA-256. Guarantees: an
address needs a checksum, and a file is recorded only if its bytes have it, so that training needs no network and
knows what it starts from.
"""
