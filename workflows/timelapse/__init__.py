"""Time-lapse and z-stacks: frames sampled where things change, questions about when, objects followed through time."""

from workflows.timelapse.linking import LinkRules, Links, link
from workflows.timelapse.measures import TrackScores, score_tracks
from workflows.timelapse.sampling import frame_changes, sample_frames
from workflows.timelapse.stack import Stack, open_stack
from workflows.timelapse.when import TimeRange, parse_ranges, ranges_where

__all__ = [
    "LinkRules",
    "Links",
    "Stack",
    "TimeRange",
    "TrackScores",
    "frame_changes",
    "link",
    "open_stack",
    "parse_ranges",
    "ranges_where",
    "sample_frames",
    "score_tracks",
]
