"""Where training patches are taken, and how predictions of tiles become one image."""
