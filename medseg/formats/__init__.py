"""Image files: bytes to images and back; one table of formats (``table``), one contract of opened images (``source``).

``read`` opens and reads, ``write`` writes label maps; each format has a module of its own, imported when it is used.
"""
