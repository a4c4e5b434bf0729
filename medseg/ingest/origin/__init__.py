"""Cases of one origin: halves of one scan, tiles of one field, near-copies, two sides of one body.

``sketch`` takes a bounded summary of each image while it is read; ``lattice``, ``borders``, ``copies`` and ``names``
compare them; ``links`` collects the pairs, ``groups`` what they connect; ``faults`` and ``proposal`` report it.
"""
