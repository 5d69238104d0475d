"""Files that a build copies: walked, hashed and read by descriptor beneath their root, written beneath the image's."""
