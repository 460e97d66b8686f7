"""From numbers to pixels, marks and titles. No plotting library."""
