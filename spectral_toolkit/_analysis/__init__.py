"""What results say: regions, scores, comparison, trust, memory. Arrays in, arrays out."""
