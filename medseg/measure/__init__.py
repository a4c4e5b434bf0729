"""measure: images and object numbers, whoever made these, to tables, outlines and overlays.

``run.py`` is the command on files; ``files.py`` the table of what can be written for an image, each kind of file in a
module of its own, imported when it is used. Guarantees: every file is written whole or not at all; equal input gives
equal bytes.
"""
