"""The tables of both papers: `targets/` holds their figures, the rest lays results beside them."""
