"""How far flossing carries."""
