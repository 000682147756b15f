"""The scans compiled for the CPU by Numba, over tiles that fill its vector registers.

Frames are transposed here: `rows[b·k + j]` is tangent vector j of trajectory b, contiguous along
the state and padded with zeros to whole vector registers. A product with a weight or a Jacobian
then serves the vectors of many trajectories at once.
"""
