"""The routes of those who have jobs done."""
