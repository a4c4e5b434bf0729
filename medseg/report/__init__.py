"""report: everything that was computed -> one HTML page that opens anywhere.

Reads the results of an experiment and its images; writes ``figures/*.png`` and, last, ``index.html``.
Guarantees: the page is whole in itself (no script, no request to anywhere), everything that comes from data
is escaped, what is missing is named, and the same results give the same bytes.
"""
