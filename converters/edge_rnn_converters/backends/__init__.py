"""Models that we carry in their own form, run by their own engine behind our sessions."""
