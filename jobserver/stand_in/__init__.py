"""A stand-in for any job server that has a profile: it answers and calls back with the profile's own samples."""

from jobserver.stand_in.app import STAND_IN, StandIn, StandInJob, create_app

__all__ = ["STAND_IN", "StandIn", "StandInJob", "create_app"]
