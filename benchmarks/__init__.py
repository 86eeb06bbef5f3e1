"""How fast, and with how much memory, beside a peer that does the same work."""
