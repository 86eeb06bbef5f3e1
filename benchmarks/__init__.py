"""Time and memory, measured in alternation with a peer that does the same work."""
