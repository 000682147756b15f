"""Training one network or many as one model, with flossing due in between."""
