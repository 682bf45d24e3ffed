"""Data order, datasets as the loop sees them, and placement on devices."""
