"""Trained models in the forms that other programs read (``docs/export.md``); ``EXPORTS`` is the table of them."""
