"""The page report.html: one or more runs in one file that needs no network."""
