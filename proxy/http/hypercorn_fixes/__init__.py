"""Fixes for bugs of Hypercorn 0.18 that no setting avoids; each file begins with the bugs that it fixes.

HTTP/2 and WebSockets are not served, so their bugs are out of reach and need no fix.
"""
