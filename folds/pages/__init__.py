"""HTML pages, contact sheets and charts, for data and models alike."""
