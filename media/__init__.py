"""Image, video and pixel files."""
