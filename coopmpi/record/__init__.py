"""The result file: the only package that imports h5py."""
