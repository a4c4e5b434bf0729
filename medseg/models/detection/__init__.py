"""Parts of networks that detect single objects: boxes, proposals, features of boxes, and detections painted as maps."""
