"""Kernels: how the vectors of one layer become affinities between its patches.

A kernel is a module with a function ``prepare(features, **options)``, which does once the work that is common to all
rows. It returns a function ``rows(start, stop)`` that gives the rows ``start:stop`` of the affinity matrix before
symmetrising, averaged over heads, of shape (images, stop - start, n). A low-rank kernel also has ``factors(features)``.
To add a kernel, add a file here and a line in ``..table``.
"""
