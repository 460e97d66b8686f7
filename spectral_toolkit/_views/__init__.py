"""Shows the numbers: overlays for notebooks, and pages to be kept. There is no mathematics and no torch here."""
