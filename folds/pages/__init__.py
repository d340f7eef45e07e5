"""HTML pages, contact sheets, charts and terminal tables, for data and models alike.

Public: `html.render`, `contact_sheet.Sheet`, `charts.age_histogram`, `tables.new_table`.
"""
