"""The Dockerfile language: text to instructions (``parse``), to stages, to what each step asks for. Pure.

All problems of a file are told at once, each with its line.
"""
