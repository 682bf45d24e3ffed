"""The networks of the ViT paper; ``vit_jax.models.api`` is the door."""
