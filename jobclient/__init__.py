"""The load client: sends many jobs at once to one address and says whether all of them came back in time."""
