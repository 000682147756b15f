"""What can be measured: recurrent maps, their states and their tangent maps."""
