"""Encoders: the convolutions of classifiers, in 2-D and 3-D, as lists of features.

``table.py`` lists them, ``build.py`` builds one, ``encoder.py`` is their contract; each has a module of its own.
"""
