"""Parameters, arithmetic and memory of each part of a detector, counted without running it."""
