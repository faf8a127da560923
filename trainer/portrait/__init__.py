"""Stage 5: pictures from the exported adapter, ranked by likeness."""
