"""What a detector costs before it is run: parameters, arithmetic and memory of each part."""
