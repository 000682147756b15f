"""`flossing analyze`: from a checkpoint to a report on its network."""
