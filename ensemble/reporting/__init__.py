"""What a person is shown: pages, charts, terminal tables, the live table."""
