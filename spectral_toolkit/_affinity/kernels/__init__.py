"""Kernels: how the vectors of one layer become affinities between its patches.

A kernel is a module with ``prepare(features, **options)``, which does the work common to all rows once, and
returns a function ``rows(start, stop)`` giving the rows ``start:stop`` of the affinity matrix before
symmetrising, averaged over heads, shape (images, stop - start, n). A low-rank kernel also offers
``factors(features)``. To add one: a file here, and a line in ``..table``.
"""
