"""What an answer may contain: grammars, boxes, schemas."""
