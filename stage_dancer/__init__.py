"""The built-in dataset: one person dances on a lit stage. Drawing it loads no torch."""
