"""An Image is Worth 16x16 Words: Vision Transformers, pre-trained and transferred."""
