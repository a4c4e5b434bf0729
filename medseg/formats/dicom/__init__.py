"""DICOM: slices, multi-frame objects and segmentation objects."""
