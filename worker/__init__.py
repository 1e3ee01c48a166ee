"""What runs inside the fork server and the worker processes; never imports Starlette, Hypercorn or the front end."""
