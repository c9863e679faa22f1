"""Containers of many files: zip archives and what is kept in them, and NeMo's tar."""
