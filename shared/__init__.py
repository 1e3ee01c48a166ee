"""The vocabulary that the front end and the workers have in common; standard library and decouple only."""
