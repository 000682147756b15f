"""`flossing analyze`: from saved weights to a page."""
