"""Compiled loops for the CPU: Numba functions over tiles that fill the vector registers.

Frames are stored transposed: `rows[b·k + j]` is tangent vector j of trajectory b, contiguous along
the state and padded with zeros to whole vector registers. A step multiplies all rows by one weight
matrix from the right, as one product for the vectors of all trajectories; elementwise work runs
along contiguous memory; and loops over registers have no remainders.
"""
