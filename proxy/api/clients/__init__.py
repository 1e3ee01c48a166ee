"""The routes for clients: post a job, ask about one, cancel one."""
