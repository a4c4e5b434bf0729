"""Readers of exports that run in processes of their own, without medseg."""
