"""How to talk to a job server: its protocol as data, and the rules that read it."""
