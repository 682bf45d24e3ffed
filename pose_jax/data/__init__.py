"""Poses: readers, the prepared layout, windows on the device."""
