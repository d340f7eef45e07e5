"""HTML pages, contact sheets, charts and terminal tables, for data and models alike.

Public: `html.render`, `html.replacing_folder`, `contact_sheet.Sheet`, `charts.age_histogram`, `tables.new_table`.
"""
