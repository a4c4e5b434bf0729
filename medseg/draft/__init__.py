"""A first configuration for a folder of images: what is seen in it, what follows, and what nobody can see.

``survey`` reads a sample of the images and the label maps, ``decide`` turns what it saw into the lines of a
configuration, each with its reason, ``text`` writes them, and ``run`` puts them to the test: the checks of ingest.
"""
