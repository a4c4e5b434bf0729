"""Image files: bytes to images and back. One table of formats (``table``), one contract for what is opened (``source``).

``read`` opens and reads, ``write`` writes label maps; each format has a module of its own, imported when it is used.
"""
