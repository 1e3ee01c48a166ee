"""The routes for clients: post a job, ask for one, cancel one."""
