"""Reports: self-contained HTML pages, Markdown and terminal tables."""
