"""The demo: two tasks, learned with and without flossing."""
