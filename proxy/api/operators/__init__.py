"""The routes of the admin address: what operators see and may do."""
