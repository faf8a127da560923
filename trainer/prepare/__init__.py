"""From photos to framed, captioned samples, with some photos sealed away first."""
