"""The code of the fork server and of the workers. It never imports Starlette, Hypercorn or the front end."""
