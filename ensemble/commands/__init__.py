"""The commands: each parses its options, calls one function of the library, and prints.

Options that several commands take: `options`; what they print with: `terminal.make_console`, `terminal.say`.
"""
