"""Images as arrays with a geometry: grids, label tables, file formats, resampling and intensity scaling."""
