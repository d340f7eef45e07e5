"""What a person is shown: pages, charts, terminal tables, the live table.

Public: `live_table.jobs_display`, `score_tables.evaluation_tables`, `report_page.write_report`,
`audit_page.write_audit`.
"""
