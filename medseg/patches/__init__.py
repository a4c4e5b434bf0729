"""Patches of images: where training takes them, and how predictions of windows are blended into one image."""
