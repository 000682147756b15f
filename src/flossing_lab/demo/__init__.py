"""The demo: two tasks, with and without flossing."""
