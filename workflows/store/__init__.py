"""The run folder: who may write there, its journal of answers, and where they come from."""
