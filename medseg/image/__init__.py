"""Images as arrays with a geometry: grids, label tables, resampling and intensity scaling; no files."""
