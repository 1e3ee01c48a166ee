"""What the fork server does once, before it forks, so that each worker is cheap."""
