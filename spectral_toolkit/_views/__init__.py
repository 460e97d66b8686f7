"""What the numbers look like: overlays for notebooks and reports for the shelf. No mathematics and no torch here."""
