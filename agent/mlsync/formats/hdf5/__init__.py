"""HDF5 (h5py, Keras, anndata): blocks, data types, datasets, and the sums over them.

Imports only the modules beside the folders.
"""
