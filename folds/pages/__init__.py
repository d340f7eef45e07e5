"""HTML pages, contact sheets, charts and terminal tables, for data and models alike."""
