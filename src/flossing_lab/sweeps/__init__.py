"""Many runs: planned, spread over workers, resumed."""
