"""Image files: bytes to arrays and back; one table of formats, one contract."""
