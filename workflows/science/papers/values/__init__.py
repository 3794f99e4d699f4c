"""Values of a record: found on the page, placed, merged."""
