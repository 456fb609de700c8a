"""Poses of a person in a video: found, made steady, drawn as labels, moved onto another person."""
