"""Who receives whose model, and how much of it counts: graphs, weights, mixing matrices, their spectra."""
