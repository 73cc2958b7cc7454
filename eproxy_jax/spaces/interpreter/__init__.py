"""This package runs networks that are data: instructions work on weights in one bank and maps on one tape."""
