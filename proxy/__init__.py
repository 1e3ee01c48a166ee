"""The front end process: HTTP, admission, and the supervision of the workers."""
