"""What runs in the fork server and in the workers. Never imports Starlette, Hypercorn or the front end."""
