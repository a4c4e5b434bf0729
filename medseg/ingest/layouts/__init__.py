"""One module per layout: how the files of a data set are found and which belong together.

A layout is a function (data set's name, its folder, its section of the configuration) -> ``Found``. The table of all is
``LAYOUTS`` in ``medseg/ingest/sources.py``; ``docs/data.md`` shows each with a picture of its folders.
"""
