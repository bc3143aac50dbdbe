"""Wrote tests/data/version1.safetensors, once. Never run it again: the file stands for all files of its version.

A new format version gets a new file beside it, and test_files.py reads both.
"""

import sys

import numpy as np

import fastmlp

net = fastmlp.MLP(
    [3, 4, 2], activation="tanh", output_activation="softmax", l1=0.001, l2=0.01, dropout=0.25, backend="numpy"
)
net.set_parameters((np.arange(net.n_parameters) - 12) / 16)
net.save(sys.argv[1])
