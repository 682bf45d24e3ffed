"""Images: sources, preprocessing, augmentation, batches."""
