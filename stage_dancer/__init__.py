"""The built-in dataset: one person dances on a lit stage. What draws it loads no torch."""
