"""A dataset in its folder, laid out as in the course: chosen, listed and checked."""
