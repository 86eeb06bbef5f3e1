"""Pure tensor functions, without parameters or config. Only custom operators have data-dependent shapes."""
