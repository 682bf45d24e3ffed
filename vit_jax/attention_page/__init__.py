"""What a Vision Transformer attends to in a picture, as one interactive HTML page."""

from vit_jax.attention_page.page import page, show

__all__ = ["page", "show"]
