"""How to talk to a job server: its protocol as data (a profile), and the pure rules that compose and read messages."""
