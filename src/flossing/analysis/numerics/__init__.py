"""The numerical methods behind the analyses, one method a file."""
