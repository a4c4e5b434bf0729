"""Objects: what a network learns of them, how its maps become objects again, whole or tile by tile."""
