"""What the fork server does once, before it forks, to make each worker cheap."""
