"""The sections of the report, one per file: each measures a `Subject` and describes the result."""
