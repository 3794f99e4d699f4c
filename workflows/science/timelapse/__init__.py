"""Time-lapse and z-stacks: frames sampled where things change, questions about when, objects followed through time."""

from workflows.science.timelapse.linking import LinkRules, TrackLinks, link
from workflows.science.timelapse.measures import TrackScores, score_tracks
from workflows.science.timelapse.sampling import frame_changes, sample_frames
from workflows.science.timelapse.stack import Stack, open_stack
from workflows.science.timelapse.when import TimeRange, parse_ranges, ranges_where

__all__ = [
    "LinkRules",
    "TrackLinks",
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
