"""Pure tensor functions: no parameters, no config, no data-dependent shapes outside custom operators."""
