"""OME-Zarr: folders of chunks, with the metadata of the Open Microscopy Environment."""
