"""What users hold: leases, and the handles that acquire them; for both faces."""
