"""Rendering: the report as a page, as Markdown and as figures."""
