"""report.html: one self-contained page about an artifact, for people."""

from vitral_export.report.page import FILE, page

__all__ = ["FILE", "page"]
