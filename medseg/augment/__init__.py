"""Augmentation of whole batches on their device; every draw is a function of (seed, step)."""
