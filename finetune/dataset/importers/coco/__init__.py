"""COCO detection JSON and its run-length masks."""
