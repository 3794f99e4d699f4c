"""Commands about cohorts."""
