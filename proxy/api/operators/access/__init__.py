"""Who may see and do what on the admin address, and how they prove it."""
