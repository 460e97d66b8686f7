"""What can be read from results: regions, scores, comparison, trust, memory. Arrays go in, and arrays come out."""
