"""Windows in which networks are flossed, against the condition number over long horizons."""
