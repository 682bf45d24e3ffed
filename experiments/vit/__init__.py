"""The recipes of the ViT and AugReg papers: `recipes` holds their tables, the rest builds runs."""
